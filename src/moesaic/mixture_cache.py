"""What a mixture of whole models remembers of the text so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from moesaic.combiners import State


class MixtureCache(Cache):
    """One key-value cache a team of members, and what the combiner remembers of the prefix.

    A team runs as one batch (:func:`moesaic.members.find_teams`), and its cache holds the rows of its members one
    member after the other. Most members are a team of their own.

    Attributes:
        teams: The members of each team.
        num_texts: Number of texts.
        caches: The teams' caches; ``None`` for a team that has read nothing, or that no text uses any more.
        state: The combiner's state; see :class:`moesaic.combiners.Combined`.
        rows: The texts of which each member's rows are there, in ascending order; ``None`` for all of them.
    """

    def __init__(
        self,
        teams: Sequence[Sequence[int]],
        num_texts: int,
        caches: Sequence[Cache | None] | None = None,
        state: State | None = None,
        rows: Sequence[Int[Tensor, " _row"] | None] | None = None,
    ) -> None:
        super().__init__(layers=[])
        self.teams = teams
        self.num_texts = num_texts
        self.caches: list[Cache | None] = [None] * len(teams) if caches is None else list(caches)
        self.state = state
        self.rows: list[Tensor | None] = [None] * sum(map(len, teams)) if rows is None else list(rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions seen so far."""
        return next(cache.get_seq_length(layer_idx) for cache in self.caches if cache is not None)

    def reorder_cache(self, beam_idx: Int[Tensor, " beam"]) -> None:
        """Follow the beams that a beam search keeps."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order."""
        kept: list[Tensor | None] = []
        new_rows: list[Tensor | None] = []
        for rows in self.rows:
            # Where the member's cache holds each new text, -1 where it does not.
            places = indices if rows is None else _places(rows, indices)
            held = (places >= 0).nonzero().squeeze(1)
            kept.append(places[held])
            new_rows.append(None if len(held) == len(indices) else held)
        self._select(kept)
        self.rows, self.num_texts = new_rows, len(indices)
        if self.state is not None:
            self.state = {name: value.index_select(0, indices) for name, value in self.state.items()}

    def keep_in_use(self, in_use: Bool[Tensor, "batch member"]) -> None:
        """Let go of what members know of texts that do not depend on them any more."""
        kept: list[Tensor | None] = [None] * len(self.rows)
        new_rows = list(self.rows)
        for member, is_used in enumerate(in_use.unbind(dim=1)):
            used, rows = is_used.nonzero().squeeze(1), self.rows[member]
            if len(used) < self._num_rows(member):
                kept[member] = used if rows is None else _places(rows, used)
                new_rows[member] = used
        self._select(kept)
        self.rows = new_rows

    def _num_rows(self, member: int) -> int:
        rows = self.rows[member]
        return self.num_texts if rows is None else len(rows)

    def _select(self, kept: Sequence[Int[Tensor, " _place"] | None]) -> None:
        """Keep these of each member's rows, or all where there is ``None``; ``rows`` still says what was there."""
        for number, team in enumerate(self.teams):
            cache = self.caches[number]
            if cache is None or all(kept[member] is None for member in team):
                continue
            device = next(own.device for member in team if (own := kept[member]) is not None)
            places, first = [], 0
            for member in team:
                own, size = kept[member], self._num_rows(member)
                places.append(first + (torch.arange(size, device=device) if own is None else own))
                first += size
            chosen = torch.cat(places)
            if len(chosen):
                cache.batch_select_indices(chosen)
            else:
                self.caches[number] = None


def _places(rows: Int[Tensor, " row"], wanted: Int[Tensor, " wanted"]) -> Int[Tensor, " wanted"]:
    """Where each wanted row stands among ``rows``; -1 where it does not."""
    if not len(rows):
        return torch.full_like(wanted, -1)
    is_there = wanted.unsqueeze(1) == rows.unsqueeze(0)  # (wanted, row)
    return torch.where(is_there.any(dim=1), is_there.int().argmax(dim=1), -1)
