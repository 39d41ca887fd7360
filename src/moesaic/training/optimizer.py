"""AdamW, the learning rate's course, and the optimizer's state as plain tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moesaic.training.options import TrainingOptions, scale_of


def learning_rate_factor(step: int, options: TrainingOptions) -> float:
    """Share of the highest learning rate at a step: a linear warm-up, then half a cosine.

    Example:
        >>> options = TrainingOptions(num_steps=100, num_warmup_steps=10, final_learning_rate=0.1)
        >>> [round(learning_rate_factor(step, options), 3) for step in (0, 9, 55, 99)]
        [0.1, 1.0, 0.542, 0.1]
    """
    warmup = min(options.num_warmup_steps, options.num_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, options.num_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return options.final_learning_rate + (1 - options.final_learning_rate) * cosine


def build_optimizer(network: nn.Module, options: TrainingOptions, *, per_member: bool = False) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained; matrices decay, norms and biases do not.

    Args:
        network: What is trained.
        options: How.
        per_member: Whether parameters have a leading member axis, so that biases are matrices.
    """
    alike: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = options.weight_decay if parameter.dim() > 1 + per_member else 0.0
            alike.setdefault((decay, scale_of(name, options.learning_rate_scales)), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "scale": scale} for (decay, scale), parameters in alike.items()
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, options: TrainingOptions) -> float:
    """Set every group's learning rate for a step and return the unscaled one."""
    learning_rate = options.learning_rate * learning_rate_factor(step, options)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]
    return learning_rate


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, so that it can be stored without a pickle."""
    return {
        f"{name}:{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    parameters = dict(network.named_parameters())
    for entry, value in tensors.items():
        name, _, key = entry.rpartition(":")
        optimizer.state[parameters[name]][key] = value
