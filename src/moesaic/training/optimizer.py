"""What takes the steps, the learning rate's course, and what an optimizer remembers, as plain tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

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


def build_optimizers(
    network: nn.Module, options: TrainingOptions, *, per_member: bool = False
) -> tuple[torch.optim.Optimizer, ...]:
    """What takes the steps: AdamW of all parameters that are trained, or Muon of the layers' matrices and AdamW of the
    others. Matrices decay, norms and biases do not.

    Muon's steps are scaled to be as long as AdamW's commonly are, so that both have one learning rate (Liu et al. 2025,
    section 2.2, https://arxiv.org/abs/2502.16982). Embeddings and output layers stay with AdamW, and so do parameters
    of more than two axes, such as the stacked experts of a layer.

    Args:
        network: What is trained.
        options: How.
        per_member: Whether parameters have a leading member axis, so that biases are matrices; for AdamW alone.
    """
    embeddings = {id(parameter) for parameter in _embeddings(network)}
    alike: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_muons = options.optimizer == "muon" and parameter.dim() == 2 and id(parameter) not in embeddings
            decay = options.weight_decay if parameter.dim() > 1 + per_member else 0.0
            scale = scale_of(name, options.learning_rate_scales)
            alike.setdefault((is_muons, decay, scale), []).append(parameter)
    adamw, muon = (
        [
            {"params": parameters, "weight_decay": decay, "scale": scale}
            for (is_muons, decay, scale), parameters in alike.items()
            if is_muons == wanted
        ]
        for wanted in (False, True)
    )
    optimizers: list[torch.optim.Optimizer] = []
    if adamw:
        optimizers.append(torch.optim.AdamW(adamw, lr=options.learning_rate, betas=(0.9, 0.95), fused=True))
    if muon:
        optimizers.append(torch.optim.Muon(muon, lr=options.learning_rate, adjust_lr_fn="match_rms_adamw"))
    return tuple(optimizers)


def _embeddings(network: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters with a row a token."""
    for module in network.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield from module.parameters()
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            yield from module.get_output_embeddings().parameters()


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], step: int, options: TrainingOptions) -> float:
    """Set every group's learning rate for a step and return the unscaled one."""
    learning_rate = options.learning_rate * learning_rate_factor(step, options)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
    return learning_rate


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], network: nn.Module) -> dict[str, Tensor]:
    """What the optimizers remember as named tensors, so that it can be stored without a pickle."""
    return {
        f"{name}:{key}": value
        for optimizer in optimizers
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizers: Sequence[torch.optim.Optimizer], network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    parameters = dict(network.named_parameters())
    in_charge = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for entry, value in tensors.items():
        name, _, key = entry.rpartition(":")
        in_charge[parameters[name]].state[parameters[name]][key] = value
