"""Constant weights for each domain; which domain a text is from is inferred as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.evidence import accumulate, check_forgetting, gather_evidence
from moesaic.combiners.spaces import combine
from moesaic.combiners.weighted import check_weights
from moesaic.types import Routing


@register("domain_weighted")
class DomainWeighted(Combiner):
    """A weighted mean of the members, with weights of its own for each domain.

    Each domain's weighted mean is itself a language model, ``p_d = Σ_m weights_dm · p_m``; the posterior over these,
    from a uniform prior, says which domain the text is from. So nobody has to name the domain, and the members' weights
    are ``Σ_d p(d | x_<t) · weights_dm``: a mixture of mixtures.

    Args:
        weights: For each domain one non-negative weight a member; each domain's sum to 1. Without it there is one
            domain in which all members count the same.
        forgetting: Exponent on the evidence of each step back; see :class:`Posterior`.

    Raises:
        ValueError: If a weight is negative, a domain's weights do not sum to 1, or ``forgetting`` is no share.
    """

    def __init__(self, weights: Sequence[Sequence[float]] | None = None, forgetting: float = 1.0) -> None:
        super().__init__()
        check_forgetting(forgetting)
        for domain, row in enumerate(weights or ()):
            check_weights(row, f"weights of domain {domain}")
        self.weights = None if weights is None else [list(row) for row in weights]
        self.forgetting = forgetting

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Take note of the number of members.

        Raises:
            ValueError: If a domain has not one weight a member.
        """
        super().attach(num_members, vocab_size)
        self.weights = self.weights or [[1 / num_members] * num_members]
        for domain, row in enumerate(self.weights):
            if len(row) != num_members:
                raise ValueError(
                    f"DomainWeighted has {len(row)} weights in domain {domain} for {num_members} members; give one a "
                    "member."
                )

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        evidence = gather_evidence(member_logits, input_ids, mask, state)
        weights = torch.tensor(self.weights, dtype=torch.float32, device=member_logits.device)  # (domain, member)
        log_weights = weights.clamp_min(torch.finfo(torch.float32).tiny).log()
        # A position where nothing was predicted has steps of 0, and so says nothing of the domain either.
        steps = torch.logsumexp(evidence.steps.unsqueeze(2) + log_weights, dim=-1)  # (batch, position, domain)
        before = state["belief"] if state is not None else steps.new_zeros(steps[:, 0].shape)
        belief = accumulate(before, steps, self.forgetting)
        router_logits = torch.logsumexp(belief.log_softmax(dim=-1).unsqueeze(-1) + log_weights, dim=2)
        routing = Routing.dense(router_logits)
        return Combined(
            combine(member_logits, routing.weights, "probability"),
            routing,
            {"belief": belief[:, -1], "predictions": evidence.predictions},
        )

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`; each domain's weights are rescaled to sum to 1."""
        self.num_members = len(members)
        kept = torch.tensor(self.weights, dtype=torch.float64)[:, members]
        self.weights = (kept / kept.sum(dim=1, keepdim=True)).tolist()

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; in each domain the others' weights make room for it."""
        super().extend()
        if self.weights is not None:
            share = 1 / (len(self.weights[0]) + 1)
            self.weights = [[*(weight * (1 - share) for weight in row), share] for row in self.weights]

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"weights": self.weights, "forgetting": self.forgetting}
