"""As few members as are needed to be sure: how many depends on the input."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from moesaic.combiners.choices.base import Choice, register_choice, routing_of_all
from moesaic.combiners.spaces import Space
from moesaic.types import Routing


def top_p_routing(router_logits: Float[Tensor, "*axes member"], *, top_p: float, normalize: bool = True) -> Routing:
    """Send each token to the fewest members whose probabilities together reach ``top_p``.

    Args:
        router_logits: Unnormalized score of every member for every token.
        top_p: Probability that the members used must reach, above 0; 1 uses all.
        normalize: Rescale the kept weights to sum to 1.

    Returns:
        The routing; it lists all members, those not used with weight 0.

    Raises:
        ValueError: If ``top_p`` is not above 0 and at most 1.

    Example:
        >>> import torch
        >>> top_p_routing(torch.tensor([[0.6, 0.3, 0.1], [0.9, 0.06, 0.04]]).log(), top_p=0.8).weights
        tensor([[0.6667, 0.3333, 0.0000],
                [1.0000, 0.0000, 0.0000]])

    Reference: Huang et al. (2024), section 3, https://arxiv.org/abs/2403.07652
    """
    check_top_p(top_p)
    if top_p == 1:
        return Routing.dense(router_logits)  # rounding could call the sum of a few 1
    probabilities = router_logits.float().softmax(dim=-1)
    ranked, index = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(dim=-1) - ranked  # probability of those that are likelier
    is_used = (before < top_p).scatter(-1, index, before < top_p)
    weights = probabilities * is_used
    if normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return routing_of_all(weights, router_logits)


@register_choice("top_p")
class TopP(Choice):
    """Use the fewest members whose probabilities reach ``top_p``; see :func:`top_p_routing`.

    Args:
        top_p: Probability that the members used must reach, above 0; 1 uses all.
        normalize: Rescale the kept weights to sum to 1.
        entropy_coef: Factor on the mean entropy of the router's distribution in the loss, in nats. Without it nothing
            keeps a router from using more and more members.

    Raises:
        ValueError: If ``top_p`` is not above 0 and at most 1.

    Reference: Huang et al. (2024), section 3 (the dynamic loss), https://arxiv.org/abs/2403.07652
    """

    def __init__(self, top_p: float, normalize: bool = True, entropy_coef: float = 0.0) -> None:
        super().__init__()
        check_top_p(top_p)
        self.top_p = top_p
        self.normalize = normalize
        self.entropy_coef = entropy_coef
        self.weights_sum_to_one = normalize

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`."""
        return top_p_routing(router_logits, top_p=self.top_p, normalize=self.normalize)

    def why_no_gradient(self, space: Space) -> str | None:
        """A ``top_p`` that the likeliest member reaches, however unsure the router is, uses that one alone."""
        num_members = self.num_members or 1
        if num_members == 1 or self.top_p > 1 / num_members or (space != "probability" and not self.normalize):
            return None
        return (
            f"top_p={self.top_p:g} is reached by the likeliest of {num_members} members alone, so every token uses one "
            "member, and its router cannot learn from the language-model loss. Use a top_p above "
            f"{1 / num_members:.3g}, or the choice 'hard'."
        )

    def penalty(self, routing: Routing) -> Float[Tensor, ""] | None:
        """See :meth:`Choice.penalty`."""
        if not self.entropy_coef:
            return None
        log_probabilities = routing.router_logits.float().log_softmax(dim=-1)
        return -self.entropy_coef * (log_probabilities.exp() * log_probabilities).sum(dim=-1).mean()

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {"top_p": self.top_p, "normalize": self.normalize, "entropy_coef": self.entropy_coef}


def check_top_p(top_p: float) -> None:
    """Refuse what is no probability, or none at all.

    Raises:
        ValueError: If ``top_p`` is not above 0 and at most 1.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p:g}.")
