"""The weight of a member is the probability that it wrote the text so far (Branch-Train-Merge)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State, register
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
        if not 0 <= forgetting <= 1:
            raise ValueError(f"forgetting must be from 0 to 1, got {forgetting}.")
        self.forgetting = forgetting

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        log_probabilities = member_logits.float().log_softmax(dim=-1)
        # How well each member predicted the token that now stands at each position.
        evidence = log_probabilities.new_zeros((*input_ids.shape, len(member_logits)))  # (batch, position, member)
        tokens = input_ids[None, :, 1:, None].expand(len(member_logits), -1, -1, -1)
        evidence[:, 1:] = log_probabilities[:, :, :-1].gather(-1, tokens).squeeze(-1).movedim(0, -1)
        # A token that is padding, or follows padding, was predicted from nothing real.
        predicted = mask.clone()
        predicted[:, 1:] &= mask[:, :-1]
        belief = evidence.new_zeros((len(input_ids), len(member_logits)))
        if state is not None:
            belief = state["belief"]
            index = input_ids[:, :1, None].expand(-1, len(member_logits), -1)
            evidence[:, 0] = state["predictions"].gather(-1, index).squeeze(-1)
        else:
            predicted[:, 0] = False
        router_logits = self._accumulate(belief, evidence * predicted.unsqueeze(-1))
        routing = Routing.dense(router_logits)
        predictions = log_probabilities[:, :, -1].transpose(0, 1)  # (batch, member, vocab)
        return Combined(
            mix_probabilities(log_probabilities, routing.weights),
            routing,
            {"belief": router_logits[:, -1], "predictions": predictions},
        )

    def _accumulate(
        self, belief: Float[Tensor, "batch member"], evidence: Float[Tensor, "batch position member"]
    ) -> Float[Tensor, "batch position member"]:
        """Log-posterior after each position, up to a constant."""
        if self.forgetting == 1:
            return belief.unsqueeze(1) + evidence.cumsum(dim=1)
        beliefs = []
        for step in evidence.unbind(dim=1):
            belief = self.forgetting * belief + step
            beliefs.append(belief)
        return torch.stack(beliefs, dim=1)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"forgetting": self.forgetting}
