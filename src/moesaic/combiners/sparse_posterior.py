"""All members read how a text begins; those that predicted it best write the rest."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.evidence import accumulate, check_forgetting, gather_evidence
from moesaic.combiners.spaces import mix_probabilities
from moesaic.types import Routing


@register("sparse_posterior")
class SparsePosterior(Combiner):
    """A posterior over members that, once it has read enough, keeps the likeliest members and forgets the others.

    For the first ``after`` tokens of a text it is :class:`Posterior`. Then each text keeps the ``keep`` members that
    predicted these tokens best, and is predicted by the posterior among them alone. While text is generated the other
    members are not run any more, so a long answer costs ``keep`` members, however many there are. Which tokens decide
    does not depend on where a prompt ends, so a text has one probability, read at once or generated.

    Args:
        keep: Number of members kept for each text.
        after: Tokens of a text that all members read, padding not counted; 2 or more, as nobody predicts the first.
        forgetting: See :class:`Posterior`.

    Raises:
        ValueError: If ``keep`` is below 1, ``after`` below 2, or ``forgetting`` is not from 0 to 1.

    Reference: Li et al. (2022), sections 3.2 and 4 (few members at inference), https://arxiv.org/abs/2208.03306
    """

    def __init__(self, keep: int = 1, after: int = 32, forgetting: float = 1.0) -> None:
        super().__init__()
        if keep < 1:
            raise ValueError(f"keep must be 1 or more, got {keep}.")
        if after < 2:
            raise ValueError(f"after must be 2 or more, as no member predicts the first token, got {after}.")
        check_forgetting(forgetting)
        self.keep = keep
        self.after = after
        self.forgetting = forgetting

    def attach(self, num_members: int, vocab_size: int) -> None:
        """See :meth:`Combiner.attach`.

        Raises:
            ValueError: If more members are to be kept than there are.
        """
        super().attach(num_members, vocab_size)
        if self.keep > num_members:
            raise ValueError(f"keep must be from 1 to num_members ({num_members}), got {self.keep}.")

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`; a member that a text does not keep has the score minus infinity."""
        evidence = gather_evidence(member_logits, input_ids, mask, state)
        if state is None:
            state = self._beginning(evidence.steps[:, 0])
        beliefs = accumulate(state["belief"], evidence.steps, self.forgetting)  # (batch, position, member)
        count = state["count"].unsqueeze(1) + mask.cumsum(dim=1)
        has_read_enough = count >= self.after  # (batch, position)
        kept = self._choose(beliefs, has_read_enough, state)
        is_out = has_read_enough.unsqueeze(-1) & ~kept.unsqueeze(1)
        routing = Routing.dense(beliefs.masked_fill(is_out, -torch.inf))
        return Combined(
            mix_probabilities(evidence.log_probabilities, routing.weights),
            routing,
            {"belief": beliefs[:, -1], "predictions": evidence.predictions, "count": count[:, -1], "kept": kept},
        )

    def members_in_use(self, state: State) -> Bool[Tensor, "batch member"]:
        """See :meth:`Combiner.members_in_use`."""
        return state["kept"]

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`; of fewer members than are to be kept all are, with a warning."""
        self.num_members = len(members)
        if self.keep > len(members):
            warnings.warn(
                f"keep is lowered from {self.keep} to {len(members)}, the number of members that are left.",
                stacklevel=2,
            )
        self.keep = min(self.keep, len(members))

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"keep": self.keep, "after": self.after, "forgetting": self.forgetting}

    def _beginning(self, no_evidence: Float[Tensor, "batch member"]) -> State:
        return {
            "belief": torch.zeros_like(no_evidence),
            "count": torch.zeros(len(no_evidence), dtype=torch.long, device=no_evidence.device),
            "kept": torch.ones_like(no_evidence, dtype=torch.bool),
        }

    def _choose(
        self,
        beliefs: Float[Tensor, "batch position member"],
        has_read_enough: Bool[Tensor, "batch position"],
        state: State,
    ) -> Bool[Tensor, "batch member"]:
        """Members kept after these tokens: all, until a text has been read far enough; then never others again."""
        deciding = has_read_enough.int().argmax(dim=1)  # the first position that has read enough, if there is one
        then = beliefs[torch.arange(len(beliefs), device=beliefs.device), deciding]  # (batch, member)
        best = torch.zeros_like(state["kept"]).scatter(1, then.topk(self.keep, dim=1).indices, True)
        decides_now = has_read_enough.any(dim=1) & (state["count"] < self.after)
        return torch.where(decides_now.unsqueeze(1), best, state["kept"])
