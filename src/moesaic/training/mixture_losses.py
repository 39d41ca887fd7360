"""What a routed mixture minimizes: its likelihood, or the experts' losses apart, or the loss of their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from moesaic.data import ExampleBatch
from moesaic.moe import load_balance_loss, router_entropy, router_z_loss
from moesaic.routed_mixture import RoutedMixture, RoutedMixtureOutput
from moesaic.training.classification import weighted_mean
from moesaic.training.objectives import Losses
from moesaic.types import Routing

MixtureLossName = Literal["likelihood", "competitive", "cooperative"]


def class_nats(logits: Float[Tensor, "*axes class"], labels: Tensor) -> Float[Tensor, "*axes"]:
    """Negative log-likelihood of the right class, in nats.

    Args:
        logits: Class scores; the last axis before the classes are the rows.
        labels: The class of each row.
    """
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    return -logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1)


def squared_errors(outputs: Float[Tensor, "*axes output"], labels: Tensor) -> Float[Tensor, "*axes"]:
    """Squared distance between the numbers given and the right ones, summed over the outputs.

    Args:
        outputs: Regression outputs; the last axis before them are the rows.
        labels: The right numbers of each row, ``(row,)`` or ``(row, output)``.
    """
    return (outputs - labels.reshape(outputs.shape[-2:])).square().sum(dim=-1)


def gaussian_nats(
    squares: Float[Tensor, "*axes"], num_outputs: int, noise_scale: float | Float[Tensor, "*noise"]
) -> Float[Tensor, "*axes"]:
    """Negative log-density of numbers under a Gaussian around a prediction, alike in every direction, in nats.

    Args:
        squares: Squared distances; see :func:`squared_errors`.
        num_outputs: Number of outputs that each distance is over.
        noise_scale: Standard deviation of the Gaussian, in the labels' unit.
    """
    scale = torch.as_tensor(noise_scale, dtype=squares.dtype, device=squares.device)
    return squares / (2 * scale.square()) + num_outputs * (scale.log() + 0.5 * math.log(2 * math.pi))


def likelihood_loss(
    weights: Float[Tensor, "batch top_k"], member_nats: Float[Tensor, "top_k batch"]
) -> Float[Tensor, " batch"]:
    """``-log Σ_m g_m p_m``: the answer came from one of the members, and the router says from which.

    Its gradient for a member is that of the member's own nats times its responsibility, the share of the mixture's
    likelihood that the member accounts for; the better a member is for a row already, the more it learns from it.

    Args:
        weights: Of the members that were asked.
        member_nats: What the right answer costs each of them, ``-log p_m``.

    Example:
        >>> likelihood_loss(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.2], [0.4]]).log().neg()).exp()
        tensor([3.3333])

    Reference: Jacobs et al. (1991), Adaptive mixtures of local experts, equation 1.3.
    """
    # The logarithm of a weight that is exactly zero has no gradient; the smallest normal number has, and adds nothing.
    log_weights = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return -torch.logsumexp(log_weights.T - member_nats, dim=0)


def competitive_loss(
    weights: Float[Tensor, "batch top_k"], member_losses: Float[Tensor, "top_k batch"]
) -> Float[Tensor, " batch"]:
    """``Σ_m g_m loss_m``: the expected loss of a member drawn by the router, each member against the label alone.

    Args:
        weights: Of the members that were asked.
        member_losses: What each of them loses.

    Example:
        >>> competitive_loss(torch.tensor([[0.25, 0.75]]), torch.tensor([[4.0], [8.0]]))
        tensor([7.])

    Reference: Jacobs et al. (1991), Adaptive mixtures of local experts, equation 1.2.
    """
    return (weights.T * member_losses).sum(dim=0)


@dataclass(frozen=True)
class RouterBalance:
    """What keeps a mixture's router healthy; each coefficient is that of a loss, and 0 leaves it out.

    Attributes:
        router_aux_loss_coef: Of the load-balance loss: no member is to be left without rows. Where all members are
            asked, a row counts for its likeliest one.
        router_z_loss_coef: Of the router z-loss: scores are to stay small, so that the softmax is not saturated.
        router_entropy_loss_coef: Of the entropy of a row's distribution: above 0 choices become surer, below 0 they
            stay open.
    """

    router_aux_loss_coef: float = 0.0
    router_z_loss_coef: float = 0.0
    router_entropy_loss_coef: float = 0.0

    def __call__(self, routing: Routing, top_k: int | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the sum of the losses with their coefficients, and each of those that count without."""
        layers = [routing.router_logits]
        losses = {
            "load_balance": (self.router_aux_loss_coef, load_balance_loss(layers, top_k=top_k or 1)),
            "router_z": (self.router_z_loss_coef, router_z_loss(layers)),
            "router_entropy": (self.router_entropy_loss_coef, router_entropy(layers)),
        }
        counted = {name: pair for name, pair in losses.items() if pair[0]}
        total = sum((factor * loss for factor, loss in counted.values()), start=routing.router_logits.new_zeros(()))
        return total, {name: loss for name, (_, loss) in counted.items()}


NO_BALANCE = RouterBalance()
"""No balance losses."""


@dataclass(frozen=True)
class MixtureObjective:
    """What a :class:`moesaic.routed_mixture.RoutedMixture` minimizes; for :func:`moesaic.training.fit`.

    - ``likelihood``: ``-log Σ_m g_m p_m``. Right where members are to specialize and the mixture's distribution is what
      is used: start with it. For numbers, ``p_m`` is a Gaussian around the member's output.
    - ``competitive``: ``Σ_m g_m loss_m``. Right where one member will answer alone, drawn or chosen by the router: each
      must be good by itself. It localizes members more slowly: a member that is far off gets the largest gradient.
    - ``cooperative``: the loss of the combined output. Right where members are parts of one model, and the sum counts,
      not what each would say alone: a member learns what the others leave over, so change one and all must change.
      For classes in ``probability`` space this is the likelihood itself; in ``logit`` space it is not.

    Cross-entropy for classes; squared errors for numbers, except in the likelihood. Where only some members are asked,
    the sums are over those. Branches of a nested mixture count as its members do: by what they say together.

    Attributes:
        loss: Which of the three.
        noise_scale: Standard deviation of the Gaussian in a regression's likelihood, in the labels' unit. The smaller,
            the more a row belongs to the one member that is closest.
        balance: Losses of the router, added.

    Raises:
        ValueError: If there is no such loss, or the noise scale is not above 0.

    Reference: Jacobs et al. (1991), Adaptive mixtures of local experts, equations 1.1 (cooperative), 1.2 (competitive)
    and 1.3 (likelihood).
    """

    loss: MixtureLossName = "likelihood"
    noise_scale: float = 1.0
    balance: RouterBalance = NO_BALANCE

    def __post_init__(self) -> None:
        if self.loss not in get_args(MixtureLossName):
            raise ValueError(f"loss must be one of {', '.join(get_args(MixtureLossName))}, got {self.loss!r}.")
        if self.noise_scale <= 0:
            raise ValueError(f"noise_scale must be above 0, got {self.noise_scale:g}.")

    def __call__(self, network: Any, batch: ExampleBatch) -> Losses:
        """Compute the losses of a routed mixture on a batch.

        Raises:
            ValueError: If the router is to be trained and cannot learn from this loss.
        """
        self.check_router_learns(network)
        output: RoutedMixtureOutput = network(*batch.inputs)
        name, per_row = self._per_row(network, output, batch.labels)
        loss = weighted_mean(per_row, batch.weights)
        balance, parts = self.balance(output.routing, network.top_k)
        return Losses(loss + balance, {name: loss, **parts})

    def check_router_learns(self, mixture: RoutedMixture) -> None:
        """Refuse to train a router that a loss tells nothing.

        Raises:
            ValueError: If one member is asked about each row, and the loss is the same whichever that is.
        """
        trained = any(parameter.requires_grad for parameter in mixture.router.parameters())
        if mixture.top_k != 1 or len(mixture.members) == 1 or not trained:
            return
        blind = None
        if mixture.normalize:
            blind = "normalize=True gives the member that is chosen the weight 1"
        elif self.loss == "likelihood":
            blind = "the likelihood is then highest where the weight of the chosen member is, whoever that is"
        elif self.loss == "cooperative" and mixture.space == "probability":
            blind = "probabilities are rescaled to sum to 1, which takes the weight out of the loss"
        if blind:
            raise ValueError(
                f"With top_k=1 the router cannot learn from the {self.loss} loss: {blind}. Train with top_k=None or "
                "2 and set mixture.top_k to 1 afterwards, or use normalize=False with the competitive loss."
            )

    def _per_row(
        self, mixture: RoutedMixture, output: RoutedMixtureOutput, labels: Tensor
    ) -> tuple[str, Float[Tensor, " batch"]]:
        name, lost = ("squared_error", squared_errors) if mixture.regression else ("nats", class_nats)
        if self.loss == "cooperative":
            return name, lost(output.logits, labels)
        weights, member_losses = output.routing.top_k_weights, lost(output.chosen_logits, labels)
        if self.loss == "competitive":
            return name, competitive_loss(weights, member_losses)
        if mixture.regression:
            member_losses = gaussian_nats(member_losses, output.logits.shape[-1], self.noise_scale)
        return "nats", likelihood_loss(weights, member_losses)


LIKELIHOOD = MixtureObjective()
"""The mixture's likelihood, without balance losses: where to start."""
