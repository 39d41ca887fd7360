"""Hand a checkpoint over: a folder of its own, which plain Transformers was seen to load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from moesaic.errors import CheckpointError
from moesaic.members import load_network, new_folder, read_checkpoint

TOLERANCE = 1e-5
"""Largest difference between logits, in float32, at which two models count as the same."""


def export(model: str | Path, output: str | Path) -> Path:
    """Copy a model to a folder of its own and make sure that plain Transformers loads it whole.

    Args:
        model: A finished run's folder, or a checkpoint.
        output: The folder to write; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        CheckpointError: If there is no whole checkpoint, or the copy gives other logits.
        RunError: If the folder holds something, or the disk is full.
    """
    return export_checkpoint(read_checkpoint(model).path, Path(output))


def export_checkpoint(source: Path, output: Path, card: str | None = None) -> Path:
    """Copy a checkpoint to a new folder and make sure that what arrives is what was sent.

    Args:
        source: The checkpoint.
        output: The folder to write; it must not exist, or be empty.
        card: The model card to put beside it; the source's own if not given.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the copy loads incompletely, or gives other logits.
        RunError: If the folder holds something, or the disk is full.
    """
    checkpoint = read_checkpoint(source)
    with new_folder(output, checkpoint.num_bytes) as partial:
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                shutil.copy2(file, partial / file.name)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        check_same(load_network(source), load_network(partial))
    return output


@torch.no_grad()
def check_same(sent: Any, arrived: Any) -> None:
    """Make sure that two models give the same logits.

    Raises:
        CheckpointError: If they differ by more than ``TOLERANCE`` anywhere.
    """
    length = min(16, sent.config.max_position_embeddings)
    tokens = torch.arange(length).unsqueeze(0) % sent.config.vocab_size
    difference = (sent(tokens).logits - arrived(tokens).logits).abs().max().item()
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"The exported model's logits differ by {difference:.2g} (allowed: {TOLERANCE:g}). Export again."
        )
