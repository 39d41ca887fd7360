"""The weight of a member is the probability that it wrote the text so far (Branch-Train-Merge)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.evidence import accumulate, check_forgetting, gather_evidence
from moesaic.combiners.spaces import mix_probabilities
from moesaic.types import Routing


@register("posterior")
class Posterior(Combiner):
    """A Bayesian mixture: members that predicted the prefix well predict the next token.

    ``w_m(x_<t) ∝ prior_m · Π_{s<t} p_m(x_s | x_<s)``, from a uniform prior. Nothing is trained. The probability of a
    whole text is then exactly the mean over members of the probability that each gives it.

    Args:
        forgetting: Exponent on the evidence of each step back, from 0 (only the last token counts) to 1 (Bayes' rule).
            Below 1 the mixture can change its mind within a document.

    Raises:
        ValueError: If ``forgetting`` is not from 0 to 1.

    Reference: Li et al. (2022), section 3.2, https://arxiv.org/abs/2208.03306
    """

    def __init__(self, forgetting: float = 1.0) -> None:
        super().__init__()
        check_forgetting(forgetting)
        self.forgetting = forgetting

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        evidence = gather_evidence(member_logits, input_ids, mask, state)
        before = state["belief"] if state is not None else evidence.steps.new_zeros(evidence.steps[:, 0].shape)
        router_logits = accumulate(before, evidence.steps, self.forgetting)
        routing = Routing.dense(router_logits)
        return Combined(
            mix_probabilities(evidence.log_probabilities, routing.weights),
            routing,
            {"belief": router_logits[:, -1], "predictions": evidence.predictions},
        )

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"forgetting": self.forgetting}
