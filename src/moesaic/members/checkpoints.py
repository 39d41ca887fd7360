"""What a checkpoint holds, read from its headers alone; nothing is unpickled, and no weight is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from moesaic.errors import CheckpointError
from moesaic.members.folders import restore_folder

INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class TensorHeader:
    """Where a tensor lies.

    Attributes:
        dtype: Type as safetensors spells it, such as ``BF16``.
        shape: Its sizes.
        file: The safetensors file.
        start: First byte in that file.
        end: The byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Size on disk in bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, as its headers describe it.

    Attributes:
        path: The folder.
        config: What ``config.json`` says.
        tensors: The header of every tensor, by name.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]

    @property
    def num_parameters(self) -> int:
        """Number of parameters in the files; tied weights lie there once."""
        return sum(prod(header.shape) for header in self.tensors.values())

    @property
    def num_bytes(self) -> int:
        """Size of all tensors on disk in bytes."""
        return sum(header.num_bytes for header in self.tensors.values())


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the headers of a checkpoint.

    Args:
        path: A folder, that of a finished run, or the name of a model on the Hub, which is then downloaded
            (safetensors, JSON and tokenizer only).

    Raises:
        CheckpointError: If there is no such checkpoint, or it is a pickle, damaged or incomplete.
    """
    folder = model_folder(path)
    config_file = folder / "config.json"
    if not config_file.exists():
        raise CheckpointError(f"{folder}: there is no config.json, so this is no Transformers checkpoint.")
    tensors: dict[str, TensorHeader] = {}
    for file in _weight_files(folder):
        tensors |= read_header(file)
    _check_index(folder, tensors)
    return Checkpoint(folder, json.loads(config_file.read_text()), tensors)


def model_folder(path: str | Path) -> Path:
    """The folder that holds a model's files; a change of it that was cut off is undone, with a warning.

    Args:
        path: That folder, that of a finished run, or the name of a model on the Hub, which is then downloaded.

    Raises:
        CheckpointError: If there is none, or the run is not finished.
    """
    folder = Path(path)
    restore_folder(folder)
    if (folder / "run.json").exists():
        folder = folder / "model"
        if not folder.is_dir():
            raise CheckpointError(f"{path}: this run is not finished, so there is no model yet. Run its recipe again.")
    return folder if folder.is_dir() else _download(str(path))


def read_header(file: Path) -> dict[str, TensorHeader]:
    """Read the header of one safetensors file.

    Raises:
        CheckpointError: If the file is cut short or is no safetensors file.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            if header_bytes > size - 8:
                raise ValueError
            header = json.loads(stream.read(header_bytes))
    except (ValueError, struct.error):
        raise CheckpointError(
            f"{file}: this is no safetensors file, or its beginning is damaged. Copy it again."
        ) from None
    header.pop("__metadata__", None)
    first = 8 + header_bytes
    expected = first + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < expected:
        raise CheckpointError(f"{file}: cut short: it has {size:,} of {expected:,} bytes. Copy it again.")
    return {
        name: TensorHeader(
            entry["dtype"],
            tuple(entry["shape"]),
            file,
            first + entry["data_offsets"][0],
            first + entry["data_offsets"][1],
        )
        for name, entry in header.items()
    }


def _download(name: str) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"{name}: there is no such folder.")
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.spm", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the library raises many kinds: unknown names, no network, no permission
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{name}: this is no folder, and the Hub did not give such a model ({reason})."
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise CheckpointError(
                f"{folder}: {INDEX} names {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing. "
                "Copy the checkpoint again."
            )
        return [folder / name for name in names]
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder}: the weights are a pickle ({pickles[0]}), which can run code when it is read. Load it where "
            "you trust it and save it with save_pretrained, which writes safetensors."
        )
    raise CheckpointError(f"{folder}: there are no weights: neither {SINGLE_FILE} nor {INDEX}.")


def _check_index(folder: Path, tensors: Mapping[str, TensorHeader]) -> None:
    if not (folder / INDEX).exists():
        return
    listed = json.loads((folder / INDEX).read_text())["weight_map"]
    lacking = sorted(set(listed) - set(tensors))
    if lacking:
        raise CheckpointError(
            f"{folder}: {INDEX} lists {lacking[0]}{_more(lacking)}, but the files do not hold it. Copy the "
            f"checkpoint again."
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
