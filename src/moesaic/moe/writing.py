"""Safetensors files written tensor by tensor, so that no file ever lies in memory."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from moesaic.members.checkpoints import TensorHeader

CHUNK_BYTES = 16 * 2**20
"""Bytes that are worked on at once."""

_CANNOT_COPY_IN_KERNEL = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
_TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is still to be written.

    Attributes:
        name: Its name in the new file.
        dtype: Type as safetensors spells it.
        shape: Its sizes.
        num_bytes: Its size on disk.
        write: Writes its bytes, in order, to the end of a file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    write: Callable[[BinaryIO], None]


def write_safetensors(path: Path, tensors: Sequence[PlannedTensor]) -> None:
    """Write one safetensors file: the header, then one tensor after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.num_bytes],
        }
        offset += tensor.num_bytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors:
            tensor.write(file)


def plan_copy(name: str, source: TensorHeader) -> PlannedTensor:
    """The bytes of one tensor, as they are."""
    return PlannedTensor(name, source.dtype, source.shape, source.num_bytes, lambda file: _copy(source, file))


def plan_average(name: str, sources: Sequence[TensorHeader]) -> PlannedTensor:
    """The mean of tensors of one shape and type, taken in float32; equal tensors give exactly that tensor."""
    first = sources[0]
    return PlannedTensor(name, first.dtype, first.shape, first.num_bytes, lambda file: _average(sources, file))


def plan_values(name: str, values: torch.Tensor, dtype: str) -> PlannedTensor:
    """A tensor that is in memory."""
    stored = values.detach().cpu().to(_TORCH_TYPES[dtype]).contiguous()
    content = stored.view(torch.uint8).numpy().tobytes()
    return PlannedTensor(name, dtype, tuple(stored.shape), len(content), lambda file: _write(file, content))


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _copy(source: TensorHeader, target: BinaryIO) -> None:
    with source.file.open("rb") as file:
        target.flush()
        done = source.start
        if hasattr(os, "copy_file_range"):  # within the kernel, where it can
            try:
                while done < source.end:
                    copied = os.copy_file_range(file.fileno(), target.fileno(), source.end - done, done)
                    if copied == 0:
                        break
                    done += copied
            except OSError as error:
                if error.errno not in _CANNOT_COPY_IN_KERNEL:
                    raise
        target.seek(0, os.SEEK_END)
        file.seek(done)
        buffer = memoryview(bytearray(min(CHUNK_BYTES, source.end - done)))
        while done < source.end:
            count = file.readinto(buffer[: min(CHUNK_BYTES, source.end - done)])
            target.write(buffer[:count])
            done += count


def _average(sources: Sequence[TensorHeader], target: BinaryIO) -> None:
    files = [source.file.open("rb") for source in sources]
    try:
        for file, source in zip(files, sources, strict=True):
            file.seek(source.start)
        buffers = [bytearray(min(CHUNK_BYTES, source.num_bytes)) for source in sources]
        dtype = _TORCH_TYPES[sources[0].dtype]
        for start in range(0, sources[0].num_bytes, CHUNK_BYTES):
            length = min(CHUNK_BYTES, sources[0].num_bytes - start)
            parts = [memoryview(buffer)[:length] for buffer in buffers]
            for file, part in zip(files, parts, strict=True):
                file.readinto(part)
            if all(part == parts[0] for part in parts[1:]):
                target.write(parts[0])
                continue
            total = torch.frombuffer(parts[0], dtype=dtype).float()
            for part in parts[1:]:
                total += torch.frombuffer(part, dtype=dtype)
            mean = total.div_(len(parts)).to(dtype)
            target.write(mean.view(torch.uint8).numpy().data)
    finally:
        for file in files:
            file.close()
