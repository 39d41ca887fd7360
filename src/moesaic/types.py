"""The words that the folders share: what was combined and why, and what a member and a combiner are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast


@dataclass(frozen=True)
class Routing:
    """Which members answered for each token, with what weight, and the scores behind the choice.

    The leading axes are those of what was routed: ``(batch, position)`` where whole models meet,
    ``(layer, token)`` inside a sparse model. A static ensemble has a routing too: every member, its constant weight.

    Attributes:
        top_k_weights: Weight of each member used, ``(..., top_k)``.
        top_k_index: Which member that is, ``(..., top_k)``.
        router_logits: Unnormalized score of every member, ``(..., member)``; their softmax is the router's
            distribution before any choice.

    Example:
        >>> routing = Routing(torch.tensor([[0.75, 0.25]]), torch.tensor([[2, 0]]), torch.tensor([[1.0, -9.0, 2.1]]))
        >>> routing.weights
        tensor([[0.2500, 0.0000, 0.7500]])
    """

    top_k_weights: Float[Tensor, "*axes top_k"]
    top_k_index: Int[Tensor, "*axes top_k"]
    router_logits: Float[Tensor, "*axes member"]

    @property
    def num_members(self) -> int:
        """Number of members that the router chooses from."""
        return self.router_logits.shape[-1]

    @property
    def weights(self) -> Float[Tensor, "*axes member"]:
        """Weight of every member, zero for those not used, ``(..., member)``."""
        dense = self.top_k_weights.new_zeros(self.router_logits.shape)
        return dense.scatter(-1, self.top_k_index, self.top_k_weights)

    @property
    def probabilities(self) -> Float[Tensor, "*axes member"]:
        """The router's distribution over all members, before the choice of the top k, ``(..., member)``."""
        return self.router_logits.float().softmax(dim=-1)

    @classmethod
    def dense(cls, router_logits: Float[Tensor, "*axes member"]) -> Routing:
        """Use every member, weighted by the softmax of ``router_logits``."""
        index = torch.arange(router_logits.shape[-1], device=router_logits.device).expand(router_logits.shape)
        return cls(router_logits.float().softmax(dim=-1), index, router_logits)


@dataclass
class MixtureOutput(CausalLMOutputWithPast):
    """What a mixture returns: the fields of Transformers' causal language models, and the routing behind them.

    Attributes:
        routing: Who was combined, with what weights.
    """

    routing: Routing | None = None


@runtime_checkable
class Member(Protocol):
    """A whole model that can be combined with others.

    A loaded checkpoint is one (:func:`moesaic.load_member`), and so is a :class:`moesaic.Mixture`: mixtures nest.
    """

    @property
    def name(self) -> str:
        """What tables, routings and recipes call this member."""
        ...

    @property
    def network(self) -> nn.Module:
        """The module; called like a Transformers causal language model."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that made the member's vocabulary, where it is known."""
        ...
