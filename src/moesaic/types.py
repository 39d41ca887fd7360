"""The words that the folders share: what was combined and why, at logits and at text, and what a member is."""

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
    def num_used(self) -> Int[Tensor, "*axes"]:
        """Number of members that have any weight, ``(...)``."""
        return (self.top_k_weights > 0).sum(dim=-1)

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


@dataclass(frozen=True)
class Candidate:
    """A finished answer that one member wrote, and how sure it was.

    Attributes:
        text: The answer.
        member: Who wrote it.
        log_probability: Of the whole answer, under that member.
        num_tokens: Tokens that the member wrote, the one that ends the text included.
        margin: Probability of the likeliest token less that of the second, the mean over the tokens.
        entropy: Of the member's next-token distribution, in nats, the mean over the tokens.
        is_finished: Whether the member ended the text itself, rather than being cut off.
    """

    text: str
    member: str
    log_probability: float
    num_tokens: int
    margin: float
    entropy: float
    is_finished: bool


@dataclass(frozen=True)
class TextAnswer:
    """One answer made of several, and why: what a :class:`Routing` is where members meet at text.

    Attributes:
        text: The answer.
        member: The member whose text was taken.
        weights: What each member counted for in the choice, by name; they sum to 1, and are 0 for members not asked.
        candidates: All answers that were given, in the order in which members were asked.
        scores: What each candidate was chosen by, in the combiner's own unit; higher is better.
        asked: The members that wrote candidates, in that order.
    """

    text: str
    member: str
    weights: dict[str, float]
    candidates: tuple[Candidate, ...]
    scores: tuple[float, ...]
    asked: tuple[str, ...]

    def __str__(self) -> str:
        return self.text


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
