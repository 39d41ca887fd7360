"""Every member has a score of its own, and a bias that no gradient moves keeps their loads even."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from moesaic.combiners.choices.base import Choice, check_top_k, lower_top_k, member_loads, register_choice, with_mean
from moesaic.combiners.choices.top_k import ALWAYS_ONE
from moesaic.combiners.spaces import Space
from moesaic.types import Routing


def sigmoid_routing(
    router_logits: Float[Tensor, "*axes member"], *, top_k: int, bias: Float[Tensor, " member"]
) -> Routing:
    """Send each token to the ``top_k`` members with the highest ``sigmoid(router_logits) + bias``.

    The bias decides who is used and nothing else: the weights are the sigmoids of the chosen members, rescaled to sum
    to 1.

    Args:
        router_logits: Unnormalized score of every member for every token.
        top_k: Number of members used per token.
        bias: Added to each member's sigmoid for the choice alone; :func:`balance_bias` moves it.

    Raises:
        ValueError: If ``top_k`` is not between 1 and the number of members.

    Example:
        >>> logits = torch.tensor([[0.75, 0.5, 0.25]]).logit()
        >>> sigmoid_routing(logits, top_k=2, bias=torch.tensor([0.0, 0.0, 0.4])).weights
        tensor([[0.7500, 0.0000, 0.2500]])

    Reference: DeepSeek-AI (2024), DeepSeek-V3, equations 13-16, https://arxiv.org/abs/2412.19437
    """
    check_top_k(top_k, router_logits.shape[-1])
    scores = router_logits.float().sigmoid()
    top_k_index = (scores.detach() + bias).topk(top_k, dim=-1).indices
    # The ratio of sigmoids is the softmax of their logarithms, which has no sum of zeros to divide by.
    top_k_weights = F.logsigmoid(router_logits.float()).gather(-1, top_k_index).softmax(dim=-1)
    return Routing(top_k_weights, top_k_index, router_logits)


def balance_bias(
    bias: Float[Tensor, " member"], loads: Float[Tensor, " member"], *, bias_update_rate: float = 1e-3
) -> Float[Tensor, " member"]:
    """Raise the bias of members that were used less than the mean, and lower that of those used more.

    Args:
        bias: As it was in the step that is over.
        loads: Number of tokens that used each member in that step, in all parts and processes of its batch.
        bias_update_rate: By how much a bias is moved.

    Example:
        >>> balance_bias(torch.zeros(3), torch.tensor([9.0, 6.0, 3.0]), bias_update_rate=0.1)
        tensor([-0.1000,  0.0000,  0.1000])

    Reference: Wang et al. (2024), algorithm 1, https://arxiv.org/abs/2408.15664; DeepSeek-V3, section 2.1.2
    """
    return bias + bias_update_rate * (loads.mean() - loads).sign()


@register_choice("sigmoid")
class Sigmoid(Choice):
    """Use the ``top_k`` members with the highest sigmoid and bias; see :func:`sigmoid_routing`.

    Nothing is added to the loss for balance: after each optimizer step, :meth:`adapt` moves the biases.

    Args:
        top_k: Number of members used per token.
        bias_update_rate: By how much a bias is moved in a step; 0 leaves the choice to the scores.
    """

    bias: Tensor

    def __init__(self, top_k: int, bias_update_rate: float = 1e-3) -> None:
        super().__init__()
        self.top_k = top_k
        self.bias_update_rate = bias_update_rate

    def attach(self, num_members: int, num_features: int) -> None:
        """See :meth:`Choice.attach`."""
        super().attach(num_members, num_features)
        check_top_k(self.top_k, num_members)
        self.register_buffer("bias", torch.zeros(num_members))

    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """See :meth:`Choice.forward`."""
        return sigmoid_routing(router_logits, top_k=self.top_k, bias=self.bias)

    def why_no_gradient(self, space: Space) -> str | None:
        """With one member per token there is no gradient."""
        return None if self.top_k > 1 else ALWAYS_ONE

    @torch.no_grad()
    def adapt(self, routing: Routing) -> None:
        """Move the biases by the loads of a step; see :func:`balance_bias`."""
        self.bias.copy_(balance_bias(self.bias, member_loads(routing), bias_update_rate=self.bias_update_rate))

    def select(self, members: list[int]) -> None:
        """See :meth:`Choice.select`."""
        super().select(members)
        self.top_k = lower_top_k(self.top_k, len(members))
        self.bias = self.bias[members]

    def extend(self) -> None:
        """See :meth:`Choice.extend`."""
        super().extend()
        self.bias = with_mean(self.bias)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Choice.arguments`."""
        return {"top_k": self.top_k, "bias_update_rate": self.bias_update_rate}
