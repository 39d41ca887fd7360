"""How much memory a model takes: its weights, and what reading one batch takes at most."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # what PyTorch's own FlopCounterMode is made of
from torch.utils._pytree import tree_leaves


def peak_bytes(network: nn.Module, read: Callable[[], object]) -> int:
    """Bytes of a model's weights, and of all tensors that lived at once while it read a batch, at most.

    On a GPU this is what PyTorch allocated, room inside its operations included; elsewhere the tensors that operations
    return are counted, since what the process takes from the system says little: freed memory is kept for later.

    Args:
        network: The model.
        read: Reads one batch; every tensor that it makes is counted.
    """
    weights = [*network.parameters(), *network.buffers()]
    at_rest = sum(_storages(weights).values())
    device = weights[0].device if weights else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        read()
        return at_rest + torch.cuda.max_memory_allocated(device) - before
    with _LiveTensors(weights) as living:
        read()
    return at_rest + living.peak


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of the memory behind tensors by its address in PyTorch, shared memory once."""
    return {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors that operations return, from then until they are freed."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._sizes = dict.fromkeys(_storages(known), 0)  # counted elsewhere
        self._live = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self._live += storage.nbytes()
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, address: int) -> None:
        self._live -= self._sizes.pop(address)
