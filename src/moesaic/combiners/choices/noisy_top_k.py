"""Top-k with learned noise on the scores while training, so that every member is tried."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.combiners.choices.base import Choice, check_top_k, lower_top_k, register_choice, with_mean
from moesaic.combiners.choices.top_k import ALWAYS_ONE, top_k_routing
from moesaic.combiners.spaces import Space
from moesaic.types import Routing


def noisy_logits(
    router_logits: Float[Tensor, "*axes member"],
    noise_logits: Float[Tensor, "*axes member"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*axes member"]:
    """Add normal noise whose standard deviation is ``softplus(noise_logits)``.

    Args:
        router_logits: Unnormalized score of every member for every token.
        noise_logits: How much noise each score gets, before the softplus.
        generator: Draws the noise; PyTorch's own if not given.

    Reference: Shazeer et al. (2017), equation 4, https://arxiv.org/abs/1701.06538
    """
    noise = torch.randn(router_logits.shape, generator=generator, device=router_logits.device)
    return router_logits + noise * F.softplus(noise_logits)


@register_choice("noisy_top_k")
class NoisyTopK(Choice):
    """Use the ``top_k`` members with the highest scores after noise, whose size is learned from what the router reads.

    There is noise while training only. The weights are rescaled to sum to 1. The noise begins with the standard
    deviation log 2, as its matrix is zero.

    Args:
        top_k: Number of members used per token.

    Reference: Shazeer et al. (2017), equations 3-5 and appendix A, https://arxiv.org/abs/1701.06538
    """

    noise: nn.Linear

    def __init__(self, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k

    def attach(self, num_members: int, num_features: int) -> None:
        """See :meth:`Choice.attach`."""
        super().attach(num_members, num_features)
        check_top_k(self.top_k, num_members)
        self.noise = nn.Linear(num_features, num_members, bias=False)
        nn.init.zeros_(self.noise.weight)

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`; the routing's ``router_logits`` are those with noise."""
        if self.training:
            router_logits = noisy_logits(router_logits, self.noise(features))
        return top_k_routing(router_logits, top_k=self.top_k)

    def why_no_gradient(self, space: Space) -> str | None:
        """With one member per token there is no gradient."""
        return None if self.top_k > 1 else ALWAYS_ONE

    def select(self, members: list[int]) -> None:
        """See :meth:`Choice.select`."""
        super().select(members)
        self.top_k = lower_top_k(self.top_k, len(members))
        self._set_noise(self.noise.weight.detach()[members])

    def extend(self) -> None:
        """See :meth:`Choice.extend`."""
        super().extend()
        self._set_noise(with_mean(self.noise.weight.detach()))

    def _set_noise(self, weight: Float[Tensor, "member feature"]) -> None:
        self.noise.out_features = len(weight)
        self.noise.weight = nn.Parameter(weight)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {"top_k": self.top_k}
