"""The same number of members for every token."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from moesaic.combiners.choices.base import Choice, check_top_k, lower_top_k, register_choice
from moesaic.combiners.spaces import Space
from moesaic.types import Routing


def top_k_routing(router_logits: Float[Tensor, "*axes member"], *, top_k: int, normalize: bool = True) -> Routing:
    """Send each token to its ``top_k`` highest-scoring members.

    The weights are softmax(router_logits), kept for the chosen members and zero elsewhere.

    Args:
        router_logits: Unnormalized score of every member for every token.
        top_k: Number of members used per token.
        normalize: Rescale the kept weights to sum to 1 (Mixtral does, OLMoE does not). With ``top_k=1`` that weight is
            always 1, so the router learns nothing from the language-model loss: leave it off.

    Returns:
        The routing. Gradients reach the weights; the choice of members has none.

    Raises:
        ValueError: If ``top_k`` is not between 1 and the number of members.

    Example:
        >>> import torch
        >>> top_k_routing(torch.tensor([[2.0, 1.0, -1.0]]), top_k=2).weights
        tensor([[0.7311, 0.2689, 0.0000]])

    Reference: Shazeer et al. (2017), section 2.1, https://arxiv.org/abs/1701.06538
    """
    check_top_k(top_k, router_logits.shape[-1])
    # float32, because bfloat16 turns close calls into ties.
    probabilities = router_logits.float().softmax(dim=-1)
    top_k_weights, top_k_index = probabilities.topk(top_k, dim=-1)  # both (..., top_k)
    if normalize:
        top_k_weights = top_k_weights / top_k_weights.sum(dim=-1, keepdim=True)
    return Routing(top_k_weights, top_k_index, router_logits)


ALWAYS_ONE = (
    "top_k=1 gives every chosen member the weight 1, so its router cannot learn from the language-model loss. Use "
    "top_k=2 or more, or the choice 'hard'."
)
"""Why choices that always rescale their weights refuse to use one member."""


@register_choice("top_k")
class TopK(Choice):
    """Use the ``top_k`` members with the highest scores; see :func:`top_k_routing`.

    Args:
        top_k: Number of members used per token.
        normalize: Rescale the kept weights to sum to 1.
    """

    def __init__(self, top_k: int, normalize: bool = True) -> None:
        super().__init__()
        self.top_k = top_k
        self.normalize = normalize
        self.weights_sum_to_one = normalize

    def attach(self, num_members: int, num_features: int) -> None:
        """See :meth:`Choice.attach`."""
        super().attach(num_members, num_features)
        check_top_k(self.top_k, num_members)

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`."""
        return top_k_routing(router_logits, top_k=self.top_k, normalize=self.normalize)

    def why_no_gradient(self, space: Space) -> str | None:
        """With one member per token there is no gradient, unless its weight scales its scores."""
        if self.top_k > 1:
            return None
        if self.normalize:
            return (
                "top_k=1 with normalize=True gives every chosen member the weight 1, so its router cannot learn from "
                "the language-model loss. Use top_k=2 or more, normalize=False with space='logit', or the choice "
                "'hard'."
            )
        if space == "probability":
            return (
                "top_k=1 in probability space gives the chosen member's own distribution, whatever its weight, so its "
                "router cannot learn from the language-model loss. Use top_k=2 or more, space='logit', or the choice "
                "'hard'."
            )
        return None

    def select(self, members: list[int]) -> None:
        """See :meth:`Choice.select`."""
        super().select(members)
        self.top_k = lower_top_k(self.top_k, len(members))

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {"top_k": self.top_k, "normalize": self.normalize}
