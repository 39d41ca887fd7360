"""The rows of a batch: one token at one of its experts, sorted by expert; and the buffers that hold values for them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_KEPT_BYTES = 256 << 20
_LINE_BYTES = 64


@dataclass(frozen=True)
class ExpertRows:
    """The rows of a batch of tokens, in the order of experts, and of tokens within an expert.

    Slot ``t * top_k + j`` is the j-th choice of token t. Choices of ``num_experts`` and more (sentinels, with which
    Transformers marks what belongs to another process) have no row.

    Attributes:
        order: The slot of each row.
        token_of_row: The token of each row.
        offsets: First row of each expert, and last the number of rows, ``(expert + 1,)``.
        num_tokens: Number of tokens.
        top_k: Number of choices of a token.
    """

    order: Int[Tensor, " row"]
    token_of_row: Int[Tensor, " row"]
    offsets: Int[Tensor, " boundary"]
    num_tokens: int
    top_k: int

    @property
    def num_experts(self) -> int:
        """Number of experts, those without a row included."""
        return len(self.offsets) - 1

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.order)


_free: list[Tensor] = []
_lock = threading.Lock()


@contextmanager
def borrowed_rows(num_rows: int, width: int, dtype: torch.dtype) -> Iterator[Float[Tensor, "row width"]]:
    """Room for values of rows, for the duration of a block; what is in it is undefined.

    The memory is kept for the next call, since the first write to fresh pages costs many times the second. Rows lie a
    cache line further apart than they are wide, so that neighbours do not fall onto the same lines of the cache.
    """
    line = _LINE_BYTES // dtype.itemsize
    stride = (math.ceil(width / line) + 1) * line
    num_bytes = max(1, num_rows) * stride * dtype.itemsize
    buffer = _take(num_bytes)
    try:
        yield buffer[:num_bytes].view(dtype).view(-1, stride)[:num_rows, :width]
    finally:
        _give_back(buffer)


def _take(num_bytes: int) -> Tensor:
    """The smallest kept buffer that is large enough, or a new one."""
    with _lock:
        fitting = [place for place, buffer in enumerate(_free) if buffer.numel() >= num_bytes]
        if fitting:
            return _free.pop(min(fitting, key=lambda place: _free[place].numel()))
    return torch.empty(num_bytes, dtype=torch.uint8)


def _give_back(buffer: Tensor) -> None:
    with _lock:
        _free.append(buffer)
        # Those that have waited longest go first.
        while sum(kept.numel() for kept in _free) > _KEPT_BYTES:
            _free.pop(0)
