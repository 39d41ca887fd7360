"""Boosting language models: each member is trained on what those before it left undone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from moesaic.combiners import Additive
from moesaic.data import NOT_SCORED, Batch, BatchSampler, EvaluationBlocks
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.tasks import next_token_loss, next_token_nats
from moesaic.training.objectives import Losses, Objective, language_modeling
from moesaic.training.options import TrainingOptions
from moesaic.training.records import OnStep
from moesaic.training.rounds import fit_round
from moesaic.training.stacking import collect_held_out, join_held_out
from moesaic.training.validation import validation_nats

BoostingMethod = Literal["stagewise", "reweighting"]


@dataclass(frozen=True)
class StagewiseLanguageModeling:
    """Cross-entropy of the sum so far plus the new member's share, ``F_{m-1} + shrinkage · f_m``, the former frozen.

    Attributes:
        previous: ``F_{m-1}``; called like a Transformers causal language model, and left as it is.
        shrinkage: The new member's weight in the sum.

    Reference: Friedman (2001), Greedy function approximation, equations 9 and 36, with the loss minimized by the
    member's own training instead of a fit to its gradient.
    """

    previous: Any
    shrinkage: float

    def __call__(self, network: Any, batch: Batch) -> Losses:
        """Compute the loss of the sum on a batch."""
        with torch.no_grad():
            before = self.previous(input_ids=batch.input_ids, use_cache=False).logits
        logits = before + self.shrinkage * network(input_ids=batch.input_ids, use_cache=False).logits
        nats = next_token_loss(logits, batch.labels)
        return Losses(nats, {"nats": nats})


@dataclass(frozen=True)
class ReweightedLanguageModeling:
    """Cross-entropy in which a token counts as much as the members so far got it wrong, ``1 - p(token)``.

    That is how far the gradient of their loss at the right token is from zero: AdaBoost's reweighting, for the
    log-loss. Weights are scaled to a mean of 1 in each batch.

    Attributes:
        previous: The members so far; called like a Transformers causal language model, and left as it is.

    Reference: Friedman, Hastie, Tibshirani (2000), Additive logistic regression, section 4 (LogitBoost).
    """

    previous: Any

    def __call__(self, network: Any, batch: Batch) -> Losses:
        """Compute the weighted loss on a batch."""
        with torch.no_grad():
            before = self.previous(input_ids=batch.input_ids, use_cache=False).logits
            weights = 1 - next_token_nats(before, batch.labels).neg().exp()
            weights = weights * (batch.labels != NOT_SCORED)
        nats = next_token_nats(network(input_ids=batch.input_ids, use_cache=False).logits, batch.labels)
        weighted = (weights * nats).sum() / weights.sum().clamp_min(1e-6)
        return Losses(weighted, {"nats": nats.mean().detach(), "weighted_nats": weighted})


@dataclass(frozen=True)
class Boosted:
    """What boosting made.

    Attributes:
        networks: The members that were kept, in order.
        weights: The step size of each: shrinkages, or alphas.
        validation_nats: Loss on held-out text after each round that was tried, in nats per token.
    """

    networks: tuple[PreTrainedModel, ...]
    weights: tuple[float, ...]
    validation_nats: tuple[float, ...]

    @property
    def num_rounds_tried(self) -> int:
        """Rounds that were trained; one more than were kept where the last one did not help."""
        return len(self.validation_nats)


def boost(
    make_network: Callable[[int], PreTrainedModel],
    sampler: BatchSampler,
    options: TrainingOptions,
    validation: Mapping[str, EvaluationBlocks],
    *,
    num_rounds: int,
    method: BoostingMethod = "stagewise",
    shrinkage: float = 0.5,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> Boosted:
    """Train members one after the other, each on what the sum of those before it still gets wrong.

    ``stagewise`` trains the new member inside the sum, with a fixed shrinkage. ``reweighting`` trains it by itself on
    reweighted tokens, then finds the step sizes that are best on held-out text. The first member is trained plainly, so
    one round is the plain member. Boosting stops at the first round that does not lower the loss on held-out text.

    Args:
        make_network: Makes the member of a round, counted from 0, before its training.
        sampler: Gives the batches; every round goes on where the one before stopped.
        options: How each round is trained.
        validation: Held-out text of every domain.
        num_rounds: Rounds at most.
        method: How a member learns from those before it.
        shrinkage: Weight of every member after the first, for ``stagewise``.
        folder: Where finished rounds are kept, so that a call that was killed can be given again.
        on_step: Told of every step.

    Raises:
        ValueError: If there is no round, or the shrinkage is not above 0 and at most 1.
    """
    if num_rounds < 1 or not 0 < shrinkage <= 1:
        raise ValueError(
            f"Boosting needs num_rounds of 1 or more and a shrinkage above 0 and at most 1, got "
            f"num_rounds={num_rounds} and shrinkage={shrinkage}."
        )
    networks: list[PreTrainedModel] = []
    weights: list[float] = []
    losses: list[float] = []
    for number in range(num_rounds):
        network = make_network(number)
        place = None if folder is None else folder / f"round-{number + 1}"
        batches = replace(sampler, first_step=sampler.first_step + number * options.num_steps)
        objective = _objective(method, networks, weights, shrinkage)
        fit_round(network, batches, objective, options, folder=place, on_step=on_step)
        tried = [*networks, network]
        steps = [*weights, shrinkage if networks else 1.0]
        if method == "reweighting" and networks:
            steps = fit_step_sizes(tried, steps, validation)
        nats = validation_nats(add_up(tried, steps), validation)
        losses.append(nats)
        if number and nats >= losses[-2]:
            warnings.warn(
                f"Boosting stopped: round {number + 1} is no better than chance at what the rounds before it left "
                f"(loss on held-out text {nats:.4f}, before it {losses[-2]:.4f}). {len(networks)} of {num_rounds} "
                "rounds are kept.",
                stacklevel=2,
            )
            break
        networks, weights = tried, steps
    return Boosted(tuple(networks), tuple(weights), tuple(losses))


def add_up(networks: Sequence[PreTrainedModel], weights: Sequence[float]) -> Mixture:
    """The boosted model: a mixture whose members' logits are summed."""
    members = [CausalLM(f"round-{number + 1}", network) for number, network in enumerate(networks)]
    return Mixture(members, Additive(weights)).eval()


def _objective(
    method: BoostingMethod, networks: Sequence[PreTrainedModel], weights: Sequence[float], shrinkage: float
) -> Objective:
    if not networks:
        return language_modeling
    previous = add_up(networks, weights)
    if method == "stagewise":
        return StagewiseLanguageModeling(previous, shrinkage)
    return ReweightedLanguageModeling(previous)


def fit_step_sizes(
    networks: Sequence[PreTrainedModel], weights: Sequence[float], validation: Mapping[str, EvaluationBlocks]
) -> list[float]:
    """The step sizes of all members that are best on held-out text; a convex problem, as the logits are linear in them.

    Args:
        networks: The members.
        weights: Where to begin.
        validation: Held-out text of every domain.
    """
    held_out = join_held_out(list(collect_held_out(networks, validation).values()))
    scored = held_out.labels != NOT_SCORED
    logits, labels = held_out.member_logits[:, scored], held_out.labels[scored]  # (member, token, vocab)
    steps = torch.tensor(weights, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.LBFGS([steps], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        # A negative step would ask for the opposite of what a member says.
        loss = F.cross_entropy(torch.tensordot(steps.clamp_min(0), logits, dims=1), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return steps.detach().clamp_min(0).tolist()
