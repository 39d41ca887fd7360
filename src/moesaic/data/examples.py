"""Labelled examples, and the batches that classifiers and regressors are trained on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from moesaic.data.resample import Rows, fingerprints
from moesaic.errors import DataError


@dataclass(frozen=True)
class Examples:
    """Inputs and the right answers, one a row, before any model has seen them.

    Attributes:
        inputs: Texts, or a tensor or array whose first axis are the rows.
        labels: The class of each row, counted from 0, or the number that a regressor is to give.
        weights: How much each row counts; all the same if not given.
        offsets: Scores that each row has already, to which those of a model are added before they are compared with
            the label: what the boosting rounds so far have said.
    """

    inputs: Any
    labels: Tensor
    weights: Float[Tensor, " row"] | None = None
    offsets: Float[Tensor, "row class"] | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise ValueError(f"Every input needs a label: got {len(self.inputs)} inputs and {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> Examples:
        """Some of the rows, in that order; a row that is drawn twice stands there twice."""
        index = torch.from_numpy(np.asarray(rows))
        raw = isinstance(self.inputs, (list, tuple))
        inputs = [self.inputs[row] for row in rows.tolist()] if raw else self.inputs[index]
        weights = None if self.weights is None else self.weights[index]
        return Examples(inputs, self.labels[index], weights, None if self.offsets is None else self.offsets[index])

    def row_bytes(self) -> list[bytes]:
        """Each input as bytes: equal for inputs that are the same."""
        return [row.encode() if isinstance(row, str) else np.asarray(row).tobytes() for row in self.inputs]

    def fingerprints(self) -> frozenset[bytes]:
        """What the inputs are known by; see :func:`moesaic.data.check_unseen`."""
        return fingerprints(self.row_bytes())


@dataclass(frozen=True)
class ExampleBatch:
    """Examples as tensors.

    Attributes:
        inputs: What the network is called with; the first axis of each is the batch.
        labels: The right answers.
        weights: How much each example counts, if not all count the same.
        offsets: Scores that are added to the network's; see :class:`Examples`.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    weights: Float[Tensor, " batch"] | None = None
    offsets: Float[Tensor, "batch class"] | None = None

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.labels.device

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: slice | Tensor) -> ExampleBatch:
        """Some of the examples."""
        weights, offsets = (None if part is None else part[rows] for part in (self.weights, self.offsets))
        return ExampleBatch(tuple(part[rows] for part in self.inputs), self.labels[rows], weights, offsets)

    def rows(self, first: int, end: int) -> ExampleBatch:
        """The examples from one row to before another."""
        return self.take(slice(first, end))

    def to(self, device: Any) -> ExampleBatch:
        """The batch on another device."""
        weights, offsets = (None if part is None else part.to(device) for part in (self.weights, self.offsets))
        return ExampleBatch(tuple(part.to(device) for part in self.inputs), self.labels.to(device), weights, offsets)


@dataclass(frozen=True, eq=False)
class ExampleSampler:
    """Draws the batch of each step: epoch after epoch, every example once in each, in a new order.

    A batch is a function of the seed and the step alone. What does not fill a batch at the end of an epoch is left out
    of it; the next epoch's order is another.

    Attributes:
        examples: All examples.
        batch_size: Examples in a batch.
        seed: Makes the order.
        lengths: Where given, a batch's examples are of about the same length, so that little of it is padding.
        first_step: Step of the training at which this sampler begins.
    """

    examples: ExampleBatch
    batch_size: int
    seed: int
    lengths: Int[Tensor, " row"] | None = None
    first_step: int = 0

    def __post_init__(self) -> None:
        check_batch_size(self)

    @property
    def num_rows(self) -> int:
        """See :class:`Shuffled`."""
        return len(self.examples)

    def batch(self, step: int) -> ExampleBatch:
        """The batch of a step."""
        return self.examples.take(draw_rows(self, self.first_step + step))


class Shuffled(Protocol):
    """Rows that are gone through in a new order every epoch; the attributes are those of :class:`ExampleSampler`."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def batch_size(self) -> int:
        """Rows in a batch."""
        ...

    @property
    def seed(self) -> int:
        """Makes the order."""
        ...

    @property
    def lengths(self) -> Int[Tensor, " row"] | Int[Tensor, "row 2"] | None:
        """Where given, a batch's rows are of about the same length; in both parts, where rows have two."""
        ...

    def __hash__(self) -> int: ...


def check_batch_size(sampler: Shuffled) -> None:
    """Refuse batches that no epoch fills.

    Raises:
        DataError: If there are fewer rows than a batch has.
    """
    if sampler.num_rows < sampler.batch_size:
        raise DataError(
            f"A batch has {sampler.batch_size} examples, and there are only {sampler.num_rows} to draw from. Lower "
            "batch_size, or give more examples (raise max_samples, if they were resampled)."
        )


def draw_rows(sampler: Shuffled, step: int) -> Int[Tensor, " batch"]:
    """The rows of a step's batch: a function of the seed and the step alone."""
    epoch, place = divmod(step, sampler.num_rows // sampler.batch_size)
    return _epoch_order(sampler, epoch)[place]


_POOL = 16
"""Batches among which examples are sorted by length: enough that each is of nearly one length, all of them shuffled."""

_POOL_OF_PAIRS = 64
"""The same where both parts have a length: alike ones need more rows, and have half the padding of one by the sum."""


@lru_cache(maxsize=32)  # members that are trained together take turns
def _epoch_order(sampler: Shuffled, epoch: int) -> Int[Tensor, "step batch"]:
    digest = hashlib.blake2b(f"{sampler.seed}:{epoch}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
    num_steps = sampler.num_rows // sampler.batch_size
    order = torch.randperm(sampler.num_rows, generator=generator)[: num_steps * sampler.batch_size]
    if sampler.lengths is not None:
        sort, num_batches = (_sort_pairs, _POOL_OF_PAIRS) if sampler.lengths.dim() == 2 else (_sort, _POOL)
        pools = order.split(num_batches * sampler.batch_size)
        order = torch.cat([sort(pool, sampler.lengths[pool], sampler.batch_size) for pool in pools])
    batches = order.view(num_steps, sampler.batch_size)
    return batches[torch.randperm(num_steps, generator=generator)]


def _sort(rows: Int[Tensor, " row"], lengths: Int[Tensor, " row"], batch_size: int) -> Int[Tensor, " row"]:
    return rows[lengths.argsort(stable=True)]


def _sort_pairs(rows: Int[Tensor, " row"], lengths: Int[Tensor, "row 2"], batch_size: int) -> Int[Tensor, " row"]:
    """Sort by the second length, then by the first within every few batches: as many as there are such pieces."""
    piece = batch_size * math.ceil(math.sqrt(len(rows) / batch_size))
    order = lengths[:, 1].argsort(stable=True)
    order = torch.cat([part[lengths[part, 0].argsort(stable=True)] for part in order.split(piece)])
    return rows[order]
