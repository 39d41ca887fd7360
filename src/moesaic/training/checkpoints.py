"""Where a training stage stopped: weights, optimizers and history, as safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moesaic.training.averaging import WeightAverage
from moesaic.training.optimizer import load_optimizer_tensors, optimizer_tensors
from moesaic.training.records import StepRecord

_PREFIX = "checkpoint-"
_AVERAGE = "average.safetensors"


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: WeightAverage,
    history: list[StepRecord],
) -> None:
    """Write a checkpoint whole or not at all, then drop the one before it."""
    earlier = _checkpoints(folder)
    target = folder / f"{_PREFIX}{len(history):08d}"
    partial = folder / f"partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.data for name, tensor in _state(network).items()}, partial / "weights.safetensors")
    save_file(optimizer_tensors(optimizers, network), partial / "optimizer.safetensors")
    if average.mean:
        save_file(average.mean, partial / _AVERAGE)
    (partial / "history.json").write_text(json.dumps([asdict(record) for record in history]))
    partial.rename(target)
    for checkpoint in earlier:
        shutil.rmtree(checkpoint)


def load_checkpoint(
    folder: Path, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], average: WeightAverage
) -> list[StepRecord]:
    """Continue from the last whole checkpoint.

    Returns:
        The steps done so far; empty if there is no checkpoint.
    """
    found = _checkpoints(folder)
    if not found:
        return []
    weights = load_file(found[-1] / "weights.safetensors")
    with torch.no_grad():
        for name, tensor in _state(network).items():
            tensor.copy_(weights[name])
    load_optimizer_tensors(optimizers, network, load_file(found[-1] / "optimizer.safetensors"))
    if (found[-1] / _AVERAGE).exists():
        average.mean = load_file(found[-1] / _AVERAGE, device=str(next(network.parameters()).device))
    return [StepRecord(**record) for record in json.loads((found[-1] / "history.json").read_text())]


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters, and the buffers that belong to a model, such as a bias that balances loads; tied tensors once."""
    saved = network.state_dict().keys()
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in saved}
    return {**dict(network.named_parameters()), **buffers}


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"))
