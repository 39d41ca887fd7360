"""Batches of pairs to train on, with little padding."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from moesaic.data.batches import NOT_SCORED, draw_seed
from moesaic.data.examples import check_batch_size, draw_rows
from moesaic.data.pair_tokens import TokenizedPairs
from moesaic.data.token_splits import TokenSplits


@dataclass(frozen=True)
class PairBatch:
    """Sources and targets to train on.

    Attributes:
        source_ids: What the encoder reads, ``(batch, source)``.
        source_mask: 1 for tokens and 0 for padding.
        labels: The target, ``NOT_SCORED`` after its end, ``(batch, target)``.
        domain_index: Which domain each pair comes from, ``(batch,)``.
    """

    source_ids: Int[Tensor, "batch source"]
    source_mask: Int[Tensor, "batch source"]
    labels: Int[Tensor, "batch target"]
    domain_index: Int[Tensor, " batch"]

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.source_ids.device

    def take(self, rows: slice | Tensor) -> PairBatch:
        """Some of the pairs."""
        return PairBatch(*(getattr(self, part.name)[rows] for part in fields(self)))

    def rows(self, first: int, end: int) -> PairBatch:
        """The pairs from one row to before another."""
        return self.take(slice(first, end))

    def to(self, device: Any) -> PairBatch:
        """The batch on another device."""
        return PairBatch(*(getattr(self, part.name).to(device) for part in fields(self)))


@dataclass(frozen=True, eq=False)
class PairSampler:
    """Draws the batch of each step: every pair once in an epoch, those of like lengths together.

    A batch is a function of the seed and the step alone.

    Attributes:
        domains: The pairs of each domain.
        batch_size: Pairs in a batch.
        pad_token_id: What fills sources up.
        seed: Makes the order.
        splits: Cuts words in another way each time that they are drawn, if anything does.
        max_tokens: Tokens of a source, and of a target, that no splitting exceeds.

    Raises:
        DataError: If there are fewer pairs than a batch has.
    """

    domains: Sequence[TokenizedPairs]
    batch_size: int
    pad_token_id: int
    seed: int
    splits: TokenSplits | None = None
    max_tokens: tuple[int, int] = (sys.maxsize, sys.maxsize)

    def __post_init__(self) -> None:
        check_batch_size(self)

    @property
    def num_rows(self) -> int:
        """Number of pairs."""
        return len(self.lengths)

    @cached_property
    def lengths(self) -> Int[Tensor, "pair 2"]:
        """Tokens of each source and of its target."""
        return torch.cat([torch.stack([pairs.source_lengths, pairs.target_lengths], dim=1) for pairs in self.domains])

    @cached_property
    def _rows(self) -> list[tuple[Tensor, Tensor, int]]:
        return [
            (source, target, index)
            for index, domain in enumerate(self.domains)
            for source, target in zip(domain.sources(), domain.targets(), strict=True)
        ]

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of all sources and targets."""
        return int(self.lengths.sum())

    def batch(self, step: int) -> PairBatch:
        """The batch of a step."""
        rows = [self._rows[row] for row in draw_rows(self, step).tolist()]
        sources, targets = [source for source, _, _ in rows], [target for _, target, _ in rows]
        if self.splits is not None:
            generator = torch.Generator().manual_seed(draw_seed(self.seed, step))
            sources = self.splits.split(sources, generator, max_tokens=self.max_tokens[0])
            targets = self.splits.split(targets, generator, max_tokens=self.max_tokens[1])
        source_ids, source_mask = pad(sources, self.pad_token_id)
        labels, _ = pad(targets, NOT_SCORED)
        return PairBatch(source_ids, source_mask, labels, torch.tensor([domain for _, _, domain in rows]))


def pad(
    rows: Sequence[Int[Tensor, " _token"]], value: int, *, left: bool = False
) -> tuple[Int[Tensor, "row position"], Int[Tensor, "row position"]]:
    """Rows of different lengths as one tensor, and 1 where it holds tokens of theirs.

    Args:
        rows: The tokens of each row.
        value: What fills shorter rows up.
        left: Fill up before the tokens instead of after them, as causal models need it that go on writing.
    """
    side = "left" if left else "right"
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), True, value, padding_side=side).long()
    lengths = torch.tensor([len(row) for row in rows], device=padded.device).unsqueeze(1)  # (row, 1)
    from_its_side = torch.arange(padded.shape[1], device=padded.device)  # (position,)
    if left:
        from_its_side = from_its_side.flip(0)
    return padded, (from_its_side < lengths).long()
