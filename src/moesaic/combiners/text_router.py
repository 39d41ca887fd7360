"""What combiners share whose weights the text alone decides on, whatever the members say of it."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State
from moesaic.combiners.spaces import Space, combine
from moesaic.types import Routing


class TextRouter(Combiner):
    """A combiner that knows its routing before any member has been run.

    Attributes:
        space: Where the members are summed; see :func:`moesaic.combiners.combine`.
    """

    routes_by_text = True
    space: Space

    @abstractmethod
    def read(
        self, input_ids: Int[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], state: State | None
    ) -> tuple[Routing, State]:
        """Route by the text up to each position.

        Args:
            input_ids: The tokens.
            mask: False where a token is padding.
            state: What this method returned for the tokens before these.

        Returns:
            The routing, and the state for the tokens that follow.
        """

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        routing, state = self.read(input_ids, mask, state)
        return Combined(combine(member_logits, routing.weights, self.space), routing, state)

    def route(
        self, input_ids: Int[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], state: State | None = None
    ) -> Routing:
        """See :meth:`Combiner.route`."""
        return self.read(input_ids, mask, state)[0]
