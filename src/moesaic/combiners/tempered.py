"""Members are made as sure as they have a right to be, then combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moesaic.combiners.base import Combined, Combiner, State, build_combiner, register
from moesaic.types import Routing


@register("tempered")
class Tempered(Combiner):
    """Divide each member's logits by its own temperature before another combiner sees them.

    Args:
        combiner: The combiner that follows, or its saved form: its word under ``type``, and its arguments.
        temperatures: One positive temperature a member (:func:`moesaic.tasks.fit_temperature` fits them on held-out
            rows); 1 each if not given.

    Raises:
        ValueError: If a temperature is not positive.

    Reference: Guo et al. (2017), section 4.2, https://arxiv.org/abs/1706.04599; Ashukha et al. (2020), section 4,
    https://arxiv.org/abs/2002.06470
    """

    def __init__(self, combiner: Combiner | Mapping[str, Any], temperatures: Sequence[float] | None = None) -> None:
        super().__init__()
        if temperatures is not None and min(temperatures, default=0) <= 0:
            raise ValueError(f"temperatures must be positive, one a member, got {list(temperatures)}.")
        self.combiner = combiner if isinstance(combiner, Combiner) else build_combiner(**combiner)
        self.temperatures = None if temperatures is None else list(temperatures)
        self.reads_every_position = self.combiner.reads_every_position
        self.reads_tokens = self.combiner.reads_tokens
        self.routes_by_text = self.combiner.routes_by_text
        self.weights_sum_to_one = self.combiner.weights_sum_to_one

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Make what depends on the members.

        Raises:
            ValueError: If the number of temperatures is not the number of members.
        """
        super().attach(num_members, vocab_size)
        self.combiner.attach(num_members, vocab_size)
        self.temperatures = self.temperatures or [1.0] * num_members
        if len(self.temperatures) != num_members:
            raise ValueError(
                f"Tempered has {len(self.temperatures)} temperatures for {num_members} members; give one a member."
            )

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        return self.combiner(self._divide(member_logits), input_ids, mask, state)

    def route(
        self, input_ids: Int[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], state: State | None = None
    ) -> Routing | None:
        """See :meth:`Combiner.route`."""
        return self.combiner.route(input_ids, mask, state)

    def members_wanted(
        self,
        member_logits: Float[Tensor, "member batch position vocab"] | None,
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Bool[Tensor, "batch position member"] | None:
        """See :meth:`Combiner.members_wanted`."""
        divided = None if member_logits is None else self._divide(member_logits)
        return self.combiner.members_wanted(divided, input_ids, mask, state)

    def _divide(
        self, member_logits: Float[Tensor, "member batch position vocab"]
    ) -> Float[Tensor, "member batch position vocab"]:
        temperatures = torch.tensor(self.temperatures, dtype=torch.float32, device=member_logits.device)
        return member_logits.float() / temperatures[:, None, None, None]

    def members_in_use(self, state: State) -> Bool[Tensor, "batch member"] | None:
        """See :meth:`Combiner.members_in_use`."""
        return self.combiner.members_in_use(state)

    def penalty(self, routing: Routing) -> Float[Tensor, ""] | None:
        """See :meth:`Combiner.penalty`."""
        return self.combiner.penalty(routing)

    def adapt(self, routing: Routing) -> None:
        """See :meth:`Combiner.adapt`."""
        self.combiner.adapt(routing)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)
        self.combiner.select(members)
        if self.temperatures is not None:
            self.temperatures = [self.temperatures[member] for member in members]

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; the new member's logits are taken as they are, at temperature 1."""
        super().extend()
        self.combiner.extend()
        if self.temperatures is not None:
            self.temperatures = [*self.temperatures, 1.0]

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {
            "combiner": {"type": self.combiner.word, **self.combiner.arguments()},
            "temperatures": self.temperatures,
        }

    def extra_repr(self) -> str:
        """Show the temperatures; the combiner shows itself."""
        return f"temperatures={self.temperatures}"
