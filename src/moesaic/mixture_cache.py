"""What a mixture of whole models remembers of the text so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from moesaic.combiners import State

Tokens = dict[str, Tensor | None]
"""What a member reads of a batch of texts; the second axis of each tensor is the position."""


class MixtureCache(Cache):
    """One key-value cache a member, and what the combiner remembers of the prefix.

    Attributes:
        caches: The members' caches, in their order; ``None`` for a member that no row of the batch uses any more.
        state: The combiner's state; see :class:`moesaic.combiners.Combined`.
        rows: The rows of the batch that each member's cache holds, in ascending order; ``None`` for all of them.
        unread: The last tokens of all texts of the batch, as far as each member has not read them; ``None`` if it has.
    """

    def __init__(
        self,
        caches: Sequence[Cache | None],
        state: State | None,
        rows: Sequence[Int[Tensor, " _row"] | None] | None = None,
        unread: Sequence[Tokens | None] | None = None,
    ) -> None:
        super().__init__(layers=[])
        self.caches = list(caches)
        self.state = state
        self.rows: list[Tensor | None] = [None] * len(caches) if rows is None else list(rows)
        self.unread: list[Tokens | None] = [None] * len(caches) if unread is None else list(unread)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions seen so far."""
        return max(
            (0 if cache is None else cache.get_seq_length(layer_idx)) + num_tokens(unread)
            for cache, unread in zip(self.caches, self.unread, strict=True)
        )

    def members_in_use(self) -> list[int]:
        """The members on which some text of the batch still depends."""
        return [member for member, rows in enumerate(self.rows) if rows is None or len(rows)]

    def unread_by(self, member: int, tokens: Tokens) -> Tokens:
        """What a member has to read until it knows these tokens: what it has missed, and they."""
        missed = self.unread[member]
        return tokens if missed is None else _join(missed, tokens)

    def reorder_cache(self, beam_idx: Int[Tensor, " beam"]) -> None:
        """Follow the beams that a beam search keeps."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order."""
        for member, rows in enumerate(self.rows):
            if rows is None:
                self._select(member, indices)
            else:
                places = _places(rows, indices)  # where the member's cache holds each new row, -1 where it does not
                new_rows = (places >= 0).nonzero().squeeze(1)
                self._select(member, places[new_rows])
                self.rows[member] = None if len(new_rows) == len(indices) else new_rows
        self.unread = [unread and take_rows(unread, indices) for unread in self.unread]
        if self.state is not None:
            self.state = {name: value.index_select(0, indices) for name, value in self.state.items()}

    def keep_in_use(self, in_use: Bool[Tensor, "batch member"]) -> None:
        """Let go of what members know of texts that do not depend on them any more."""
        for member, is_used in enumerate(in_use.unbind(dim=1)):
            new_rows, rows = is_used.nonzero().squeeze(1), self.rows[member]
            if len(new_rows) < (len(in_use) if rows is None else len(rows)):
                self._select(member, new_rows if rows is None else _places(rows, new_rows))
                self.rows[member] = new_rows

    def _select(self, member: int, places: Int[Tensor, " place"]) -> None:
        cache = self.caches[member]
        if not len(places):
            self.caches[member] = self.unread[member] = None
        elif cache is not None:
            cache.batch_select_indices(places)


def take_rows(tokens: Tokens, rows: Int[Tensor, " row"] | None) -> Tokens:
    """Some texts of a batch, ``None`` for all; what all of several share has one row, and is left as it is."""
    if rows is None:
        return tokens
    num_texts = max(len(value) for value in tokens.values() if value is not None)
    return {name: value if value is None or len(value) < num_texts else value[rows] for name, value in tokens.items()}


def _join(missed: Tokens, tokens: Tokens) -> Tokens:
    """Earlier and later tokens of the same texts."""
    joined: Tokens = {}
    for name, later in tokens.items():
        earlier = missed[name]
        joined[name] = None if earlier is None or later is None else torch.cat([earlier, later], dim=1)
    return joined


def num_tokens(tokens: Tokens | None) -> int:
    """Positions of a batch of texts; 0 where there is none."""
    input_ids = None if tokens is None else tokens["input_ids"]
    return 0 if input_ids is None else input_ids.shape[1]


def _places(rows: Int[Tensor, " row"], wanted: Int[Tensor, " wanted"]) -> Int[Tensor, " wanted"]:
    """Where each wanted row stands among ``rows``; -1 where it does not."""
    if not len(rows):
        return torch.full_like(wanted, -1)
    is_there = wanted.unsqueeze(1) == rows.unsqueeze(0)  # (wanted, row)
    return torch.where(is_there.any(dim=1), is_there.int().argmax(dim=1), -1)
