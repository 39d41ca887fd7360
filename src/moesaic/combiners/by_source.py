"""A router that reads the source text once, and lets its choice stand for the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, State, register
from moesaic.combiners.choices import routing_of_all
from moesaic.combiners.routed import Routed
from moesaic.combiners.spaces import combine
from moesaic.types import Routing


@register("by_source")
class BySource(Routed):
    """One routing for each source text: with the choice ``hard``, an answer costs one member, encoder included.

    The router is that of :class:`Routed`, over the mean of learned embeddings of the source's tokens. Its arguments are
    the same too. It combines encoder-decoder models, whose source is known before the first token of the answer is
    written (:class:`moesaic.Seq2SeqMixture`), and causal models while they answer to a prompt.

    Args:
        task_tokens: Tokens that say what is asked for, such as a task or a target language; the first of them in a
            source counts. With them, each has a router of its own over the same features and the same members, and so
            have the sources without any. In the mean alone such a token weighs as little as any other, and sources
            unlike all that it was trained with would be routed by their words.
        **arguments: Those of :class:`Routed`.

    Reference: Kudugunta et al. (2021), section 3.1 (routing by sentence and by task), https://arxiv.org/abs/2110.03742;
    Ma et al. (2018), section 4.2 (a router a task), https://doi.org/10.1145/3219819.3220007
    """

    reads_every_position = False
    routes_by_text = False

    def __init__(self, *, task_tokens: Sequence[int] = (), **arguments: Any) -> None:
        super().__init__(**arguments)
        self.task_tokens = tuple(task_tokens)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        own = {"task_tokens": list(self.task_tokens)} if self.task_tokens else {}
        return super().arguments() | own

    @property
    def num_features(self) -> int:
        """See :attr:`Routed.num_features`: with task tokens, as many for each and a constant, and for none of them."""
        own = super().num_features
        return (own + 1) * (len(self.task_tokens) + 1) if self.task_tokens else own

    def score(
        self, source_ids: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"]
    ) -> Float[Tensor, "batch member"]:
        """The router's unnormalized score of every member for every source."""
        return self.router(self._features(source_ids, mask))

    def route_source(self, source_ids: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"]) -> Routing:
        """Who answers to each source, with what weight; the routing's axes are ``(batch,)``."""
        features = self._features(source_ids, mask)
        return self.choice(self.router(features), features)

    def read_source(self, source_ids: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"]) -> State:
        """See :meth:`Combiner.read_source`."""
        routing = self.route_source(source_ids, mask)
        return {"weights": routing.weights, "router_logits": routing.router_logits}

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`.

        Raises:
            ValueError: If no source was read.
        """
        if state is None:
            raise ValueError(
                "'by_source' weighs members by a source text, which a causal model has only while it generates: the "
                "prompt. To score text, use 'routed', which reads the text so far; or combine encoder-decoder models "
                "(moesaic.Seq2SeqMixture)."
            )
        axes = (-1, input_ids.shape[1], -1)
        weights, scores = (state[name].unsqueeze(1).expand(axes) for name in ("weights", "router_logits"))
        return Combined(combine(member_logits, weights, self.space), routing_of_all(weights, scores), state)

    def members_wanted(
        self,
        member_logits: Float[Tensor, "member batch position vocab"] | None,
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> None:
        """See :meth:`Combiner.members_wanted`: whom an answer does not need was let go before it began."""

    def members_in_use(self, state: State) -> Bool[Tensor, "batch member"] | None:
        """See :meth:`Combiner.members_in_use`: those that have a weight."""
        return state["weights"] > 0

    def _features(
        self, source_ids: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"]
    ) -> Float[Tensor, "batch feature"]:
        total = torch.einsum("bsw,bs->bw", self.embedding(source_ids), mask.to(self.embedding.weight.dtype))
        features = self.hidden(total / mask.sum(dim=1, keepdim=True).clamp_min(1))
        if not self.task_tokens:
            return features
        tokens = torch.tensor(self.task_tokens, device=source_ids.device)
        is_tag = (source_ids.unsqueeze(-1) == tokens) & mask.unsqueeze(-1)  # (batch, source, task)
        found = is_tag.any(dim=-1, keepdim=True)
        # The first says what is asked; others stand in the text that it is asked about.
        is_of_task = (is_tag & (found.cumsum(dim=1) == 1)).any(dim=1)  # (batch, task)
        asks = torch.cat([is_of_task, ~is_of_task.any(dim=1, keepdim=True)], dim=1).to(features.dtype)
        # In the place of its task and zero elsewhere, so that one linear layer is one router a task; the constant is
        # that router's bias.
        features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        return torch.einsum("bt,bf->btf", asks, features).flatten(1)
