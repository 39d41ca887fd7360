"""The weights depend on the input: a mixture of experts whose experts are whole models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.combiners.base import State, register
from moesaic.combiners.choices import Choice, Softmax, TopK, build_choice, with_mean
from moesaic.combiners.spaces import Space, check_space
from moesaic.combiners.text_router import TextRouter
from moesaic.types import Routing


@register("routed")
class Routed(TextRouter):
    """A router reads the text so far and weighs the members anew at every token.

    The router is a linear layer, or a network with one hidden layer, over the mean of learned token embeddings of the
    prefix: cheap, causal, and independent of what the members are. From its scores a choice makes the weights; without
    one every member is used (a dense mixture).

    Args:
        top_k: Number of members used per token: short for the choice ``top_k``.
        normalize: Rescale the weights of those ``top_k`` members to sum to 1.
        space: Where the members are summed; see :func:`moesaic.combiners.combine`.
        router_width: Width of the router's token embeddings.
        seed: Makes the router's initial weights.
        choice: How scores become weights (:mod:`moesaic.combiners.choices`), or its saved form: its word under
            ``type``, and its arguments.
        hidden_width: Width of the router's hidden layer; without it the router is linear.

    Raises:
        ValueError: If both ``top_k`` and a choice are given, the choice looks at later tokens or lets the router learn
            nothing, or the space does not exist.

    Reference: Jacobs et al. (1991), equation 1.3; Shazeer et al. (2017), section 2, https://arxiv.org/abs/1701.06538
    """

    embedding: nn.Embedding
    hidden: nn.Module
    router: nn.Linear

    def __init__(
        self,
        top_k: int | None = None,
        normalize: bool = True,
        space: Space = "probability",
        router_width: int = 64,
        seed: int = 0,
        choice: Choice | Mapping[str, Any] | None = None,
        hidden_width: int | None = None,
    ) -> None:
        super().__init__()
        check_space(space)
        if top_k is not None and choice is not None:
            raise ValueError(
                f"Routed was given top_k={top_k} and a choice of its own. Leave top_k out, or give it to the choice."
            )
        if choice is None:
            choice = Softmax() if top_k is None else TopK(top_k, normalize)
        self.choice = choice if isinstance(choice, Choice) else build_choice(**choice)
        self.space = space
        self.router_width = router_width
        self.seed = seed
        self.hidden_width = hidden_width
        self.weights_sum_to_one = self.choice.weights_sum_to_one
        self._check_choice()

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Make the router.

        Raises:
            ValueError: If the choice does not fit that many members, or its router can learn nothing.
        """
        super().attach(num_members, vocab_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.embedding = nn.Embedding(vocab_size, self.router_width)
            self.hidden = (
                nn.Identity()
                if self.hidden_width is None
                else nn.Sequential(nn.Linear(self.router_width, self.hidden_width), nn.GELU())
            )
            self.router = nn.Linear(self.num_features, num_members)
            self.choice.attach(num_members, self.num_features)
        self._check_choice()

    @property
    def num_features(self) -> int:
        """Numbers that the last layer of the router reads."""
        return self.router_width if self.hidden_width is None else self.hidden_width

    def read(
        self, input_ids: Int[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], state: State | None
    ) -> tuple[Routing, State]:
        """See :meth:`TextRouter.read`."""
        embedded = self.embedding(input_ids) * mask.unsqueeze(-1)  # (batch, position, width)
        total, count = embedded.cumsum(dim=1), mask.cumsum(dim=1)
        if state is not None:
            total, count = total + state["total"].unsqueeze(1), count + state["count"].unsqueeze(1)
        features = self.hidden(total / count.clamp_min(1).unsqueeze(-1))
        return self.choice(self.router(features), features), {"total": total[:, -1], "count": count[:, -1]}

    def penalty(self, routing: Routing) -> Float[Tensor, ""] | None:
        """See :meth:`Combiner.penalty`."""
        return self.choice.penalty(routing)

    def adapt(self, routing: Routing) -> None:
        """See :meth:`Combiner.adapt`."""
        self.choice.adapt(routing)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`; ``top_k`` is lowered, with a warning, where fewer members are left."""
        self.num_members = len(members)
        self._set_router(self.router.weight.detach()[members], self.router.bias.detach()[members])
        self.choice.select(members)
        if len(members) == 1:
            self.choice = Softmax()  # one of one is no choice
            self.choice.attach(1, self.router.in_features)

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; the new member's score is the mean of the others' scores."""
        super().extend()
        self._set_router(with_mean(self.router.weight.detach()), with_mean(self.router.bias.detach()))
        self.choice.extend()

    def _set_router(self, weight: Float[Tensor, "member width"], bias: Float[Tensor, " member"]) -> None:
        self.router.out_features = len(weight)
        self.router.weight, self.router.bias = nn.Parameter(weight), nn.Parameter(bias)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {
            "choice": {"type": self.choice.word, **self.choice.arguments()},
            "space": self.space,
            "router_width": self.router_width,
            "hidden_width": self.hidden_width,
            "seed": self.seed,
        }

    def _check_choice(self) -> None:
        if not self.choice.is_causal:
            raise ValueError(
                f"The choice {self.choice.word!r} lets members pick among all tokens of a text, so that a token's "
                "routing depends on later tokens, which a mixture that predicts the next token cannot know. Use "
                "'sigmoid', which balances the members' loads and looks at one token, or 'top_k' or 'top_p'."
            )
        if reason := self.choice.why_no_gradient(self.space):
            raise ValueError(reason)
