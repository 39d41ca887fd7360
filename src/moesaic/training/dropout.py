"""Dropout on a CPU whose random numbers cost little."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from moesaic.training.processes import training_device

_VALUES_OF_A_BYTE = 256


class ByteDropout(TorchFunctionMode):
    """While it is entered, dropout on a CPU draws one random byte a number.

    PyTorch draws there a whole random integer for each number, one after the other, which took up to a sixth of a
    training step of an encoder-decoder model of width 128 (``python -m benchmarks.dropout``). Here one integer serves
    eight numbers. The share that is dropped is rounded to the next 256th, and what is kept is scaled up by what that
    share really is, so that the expected value is exact. Other devices keep their own dropout.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with ByteDropout():
        ...     dropped = F.dropout(torch.ones(8), p=0.25)
        >>> dropped
        tensor([0.0000, 1.3333, 1.3333, 1.3333, 1.3333, 0.0000, 1.3333, 1.3333])
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take the place of dropout; leave all else as it is."""
        kwargs = kwargs or {}
        return (_dropout if function is F.dropout else function)(*args, **kwargs)


def cheap_dropout() -> contextlib.AbstractContextManager[Any]:
    """:class:`ByteDropout` where models are trained on a CPU, and nothing elsewhere."""
    return ByteDropout() if training_device().type == "cpu" else contextlib.nullcontext()


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As :func:`torch.nn.functional.dropout`."""
    least_kept = round(p * _VALUES_OF_A_BYTE)
    if not training or inplace or input.device.type != "cpu" or not 0 < least_kept < _VALUES_OF_A_BYTE:
        return F.dropout(input, p, training, inplace)
    count = input.numel()
    integers = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    numbers = integers.view(torch.uint8)[:count].view(input.shape)
    # bfloat16 holds every byte exactly; float16 and wider types do too.
    kept = numbers.to(input.dtype).ge_(least_kept)
    return input * kept.mul_(_VALUES_OF_A_BYTE / (_VALUES_OF_A_BYTE - least_kept))
