"""One member per token, and yet a router that learns: the gradient is that of a softmax."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from moesaic.combiners.choices.base import Choice, register_choice, routing_of_all
from moesaic.types import Routing


def hard_routing(router_logits: Float[Tensor, "*axes member"], *, temperature: float = 1.0) -> Routing:
    """Send each token to its highest-scoring member with weight 1; the gradient passes as if it were a softmax.

    Args:
        router_logits: Unnormalized score of every member for every token.
        temperature: Of that softmax; low ones give gradients that are nearer to the true ones, and more variable.

    Returns:
        The routing; it lists all members, those not used with weight 0, as gradients reach them too.

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> hard_routing(torch.tensor([[2.0, 1.0, -1.0]])).weights
        tensor([[1., 0., 0.]])

    Reference: Bengio et al. (2013), section 2.3, https://arxiv.org/abs/1308.3432
    """
    check_temperature(temperature)
    soft = (router_logits.float() / temperature).softmax(dim=-1)
    chosen = F.one_hot(router_logits.argmax(dim=-1), router_logits.shape[-1]).to(soft.dtype)
    # soft - soft.detach() is exactly zero, and has the gradient of soft.
    return routing_of_all(chosen + (soft - soft.detach()), router_logits)


def gumbel_logits(
    router_logits: Float[Tensor, "*axes member"], *, generator: torch.Generator | None = None
) -> Float[Tensor, "*axes member"]:
    """Add Gumbel noise: the highest of the sums is then a draw from the softmax of ``router_logits``.

    Args:
        router_logits: Unnormalized score of every member for every token.
        generator: Draws the noise; PyTorch's own if not given.

    Reference: Jang et al. (2017), section 2, https://arxiv.org/abs/1611.01144
    """
    noise = torch.empty(router_logits.shape, device=router_logits.device).exponential_(generator=generator)
    return router_logits - noise.log()


@register_choice("hard")
class Hard(Choice):
    """Use the one member with the highest score, and let gradients through as if the choice were soft.

    Args:
        gumbel: While training, draw the member from the router's distribution rather than take the likeliest one.
        temperature: Of the softmax that gradients pass; see :func:`hard_routing`.

    Raises:
        ValueError: If the temperature is not positive.

    Reference: Bengio et al. (2013), https://arxiv.org/abs/1308.3432; Jang et al. (2017), section 2.2,
    https://arxiv.org/abs/1611.01144
    """

    def __init__(self, gumbel: bool = False, temperature: float = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.gumbel = gumbel
        self.temperature = temperature

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`; the routing's ``router_logits`` are those with noise."""
        if self.gumbel and self.training:
            router_logits = gumbel_logits(router_logits)
        return hard_routing(router_logits, temperature=self.temperature)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {"gumbel": self.gumbel, "temperature": self.temperature}


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is none.

    Raises:
        ValueError: If it is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature:g}.")
