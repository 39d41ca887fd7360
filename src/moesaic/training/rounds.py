"""Training in rounds: boosting's members, snapshots' cycles. A round that is done is never done again."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from moesaic.data import Sampler
from moesaic.training.loop import fit
from moesaic.training.objectives import Objective
from moesaic.training.options import TrainingOptions
from moesaic.training.processes import is_main, wait_for_all
from moesaic.training.records import OnStep


def fit_round(
    network: nn.Module,
    sampler: Sampler,
    objective: Objective,
    options: TrainingOptions,
    *,
    folder: Path | None,
    on_step: OnStep | None = None,
) -> None:
    """Train a network in place, or read back what an earlier call with the same folder left.

    Args:
        network: What is trained.
        sampler: Gives the batch of each step.
        objective: What is minimized.
        options: How.
        folder: Where the round's checkpoints and its final weights are; nothing is kept without it.
        on_step: Told of every step.
    """
    weights = None if folder is None else folder / "weights.safetensors"
    if weights is not None and weights.exists():
        stored = load_file(weights)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(stored[name])
        network.eval()
        return
    checkpoints = None if folder is None else folder / "checkpoints"
    fit(network, sampler, objective, options, checkpoint_folder=checkpoints, on_step=on_step)
    if weights is not None and is_main():
        partial = weights.with_name("partial.safetensors")
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: parameter.data for name, parameter in network.named_parameters()}, partial)
        partial.rename(weights)
        shutil.rmtree(weights.parent / "checkpoints", ignore_errors=True)
    wait_for_all()
