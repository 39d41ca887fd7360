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
    """One key-value cache a team of members, and what the combiner remembers of the prefix.

    A team runs as one batch (:func:`moesaic.members.find_teams`), and its cache holds the rows of its members one
    member after the other. Most members are a team of their own.

    Attributes:
        teams: The members of each team.
        num_texts: Number of texts.
        caches: The teams' caches; ``None`` for a team that has read nothing, or that no text uses any more.
        state: The combiner's state; see :class:`moesaic.combiners.Combined`.
        rows: The texts of which each member's rows are there, in ascending order; ``None`` for all of them.
        unread: The last tokens of all texts, as far as each team has not read them; ``None`` if it has.
    """

    def __init__(
        self,
        teams: Sequence[Sequence[int]],
        num_texts: int,
        caches: Sequence[Cache | None] | None = None,
        state: State | None = None,
        rows: Sequence[Int[Tensor, " _row"] | None] | None = None,
        unread: Sequence[Tokens | None] | None = None,
    ) -> None:
        super().__init__(layers=[])
        self.teams = teams
        self.num_texts = num_texts
        self.caches: list[Cache | None] = [None] * len(teams) if caches is None else list(caches)
        self.state = state
        self.rows: list[Tensor | None] = [None] * sum(map(len, teams)) if rows is None else list(rows)
        self.unread: list[Tokens | None] = [None] * len(teams) if unread is None else list(unread)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions seen so far."""
        return max(
            (0 if cache is None else cache.get_seq_length(layer_idx)) + num_tokens(unread)
            for cache, unread in zip(self.caches, self.unread, strict=True)
        )

    def in_use(self, team: int) -> list[int]:
        """The members of a team on which some text still depends."""
        return [member for member in self.teams[team] if (rows := self.rows[member]) is None or len(rows)]

    def unread_by(self, team: int, tokens: Tokens) -> Tokens:
        """What a team has to read until it knows these tokens: what it has missed, and they."""
        missed = self.unread[team]
        return tokens if missed is None else _join(missed, tokens)

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
        self.unread = [unread and take_rows(unread, indices) for unread in self.unread]
        self._forget_unread()
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
        self._forget_unread()

    def _forget_unread(self) -> None:
        """What a team that no text uses any more has not read, it never will."""
        self.unread = [unread if self.in_use(team) else None for team, unread in enumerate(self.unread)]

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
