"""A meta-model reads what the members say and decides whom to believe: stacking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.entropy import entropy
from moesaic.combiners.evidence import accumulate, check_forgetting, gather_evidence
from moesaic.combiners.spaces import Space, check_space, combine
from moesaic.combiners.weighted import check_weights, extend_weights, weight_parameter
from moesaic.types import Routing

_NUM_FEATURES = 5


@register("stacked")
class Stacked(Combiner):
    """A small network over the members' log-probabilities gives each member's weight, anew at every token.

    Every member is scored by the same network from its own features, and has a constant of its own, so that members can
    be added, removed and reordered. Its last layer begins at zero: before any training the stacker is the weighted
    average of its constants, which :func:`moesaic.training.fit_combiner` first sets to their optimum.

    Args:
        weights: One positive weight a member to begin with, summing to 1; equal if not given.
        width: Width of the network's hidden layer.
        forgetting: Where given, how well a member predicted the text so far is a feature too, with this exponent on
            each step back (see :class:`Posterior`); only for language models.
        space: Where the members are summed; see :func:`moesaic.combiners.combine`.
        seed: Makes the network's initial weights.

    Raises:
        ValueError: If a weight is negative, they do not sum to 1, ``forgetting`` is no share, or the space does not
            exist.

    Reference: Wolpert (1992), Stacked generalization; Jacobs et al. (1991), Adaptive mixtures of local experts.
    """

    router_logits: nn.Parameter
    network: nn.Sequential

    def __init__(
        self,
        weights: Sequence[float] | None = None,
        width: int = 16,
        forgetting: float | None = None,
        space: Space = "probability",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_space(space)
        if forgetting is not None:
            check_forgetting(forgetting)
        if weights is not None:
            check_weights(weights)
        self.weights = None if weights is None else list(weights)
        self.width = width
        self.forgetting = forgetting
        self.space = space
        self.seed = seed
        self.reads_tokens = self.reads_every_position = forgetting is not None

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Make the network, and one constant a member.

        Raises:
            ValueError: If the number of weights is not the number of members.
        """
        super().attach(num_members, vocab_size)
        self.router_logits = weight_parameter(self.weights, num_members, "Stacked")
        num_features = _NUM_FEATURES + (self.forgetting is not None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            last = nn.Linear(self.width, 1, bias=False)
            nn.init.zeros_(last.weight)
            self.network = nn.Sequential(nn.Linear(num_features, self.width), nn.GELU(), last)

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
        observed: Float[Tensor, "batch position member feature"] | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        kept: State | None = None
        if observed is None:
            observed, kept = self._observe(member_logits, input_ids, mask, state)
        scores = self.network(observed).squeeze(-1)  # (batch, position, member)
        routing = Routing.dense(self.router_logits + scores)
        return Combined(combine(member_logits, routing.weights, self.space), routing, kept)

    def observe(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
    ) -> Float[Tensor, "batch position member feature"]:
        """The features of every member; see :meth:`Combiner.observe`."""
        return self._observe(member_logits, input_ids, mask, None)[0]

    def _observe(
        self, member_logits: Tensor, input_ids: Tensor, mask: Tensor, state: State | None
    ) -> tuple[Float[Tensor, "batch position member feature"], State | None]:
        if self.forgetting is None:
            return member_features(member_logits.float().log_softmax(dim=-1)), None
        evidence = gather_evidence(member_logits, input_ids, mask, state)
        before = state["belief"] if state is not None else evidence.steps.new_zeros(evidence.steps[:, 0].shape)
        belief = accumulate(before, evidence.steps, self.forgetting)
        # Only differences between members matter; the logarithm of the posterior holds just those.
        posterior = belief.log_softmax(dim=-1).clamp_min(-20).unsqueeze(-1)
        features = torch.cat([member_features(evidence.log_probabilities), posterior], dim=-1)
        return features, {"belief": belief[:, -1], "predictions": evidence.predictions}

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)
        self.router_logits = nn.Parameter(self.router_logits.detach()[members])
        self.weights = self.router_logits.detach().softmax(dim=0).tolist()

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; the network scores the new member as it does the others."""
        super().extend()
        self.router_logits = extend_weights(self.router_logits)
        self.weights = self.router_logits.detach().softmax(dim=0).tolist()

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {
            "weights": self.weights,
            "width": self.width,
            "forgetting": self.forgetting,
            "space": self.space,
            "seed": self.seed,
        }


def member_features(
    log_probabilities: Float[Tensor, "member batch position vocab"],
) -> Float[Tensor, "batch position member feature"]:
    """What the meta-model sees of each member's prediction, beside that of the others.

    Five numbers, all of the size of 1: the entropy as a share of the largest there can be, the log-probability of the
    likeliest token, its lead over the second, the mean log-probability that the members give to this member's likeliest
    token, and the log-probability that this member gives to the likeliest token of the mean.
    """
    top_two, index = log_probabilities.topk(min(2, log_probabilities.shape[-1]), dim=-1)
    likeliest = index[..., :1]  # (member, batch, position, 1)
    mean = torch.logsumexp(log_probabilities, dim=0) - torch.tensor(float(len(log_probabilities))).log()
    consensus = mean.argmax(dim=-1, keepdim=True)
    by_all = mean.expand_as(log_probabilities).gather(-1, likeliest).squeeze(-1)
    of_consensus = log_probabilities.gather(-1, consensus.expand_as(likeliest)).squeeze(-1)
    uniform = torch.tensor(float(log_probabilities.shape[-1])).log()
    features = [
        entropy(log_probabilities) / uniform,
        top_two[..., 0],
        top_two[..., 0] - top_two[..., -1],
        by_all,
        of_consensus,
    ]
    return torch.stack(features, dim=-1).clamp(-20, 20).movedim(0, 2)
