"""How one training stage runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["adamw", "muon"]
Precision = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True)
class TrainingOptions:
    """How one training stage runs.

    Attributes:
        num_steps: Number of optimizer steps.
        batch_size: Sequences or examples in an optimizer step, over all processes and accumulated parts together.
        sequence_length: Tokens that the model reads in a sequence; not looked at where it learns from examples.
        learning_rate: Highest learning rate, reached after the warm-up.
        learning_rate_scales: Factor on the learning rate of the parameters whose name matches a pattern (``*`` matches
            anything); the last pattern that matches counts, and 0 freezes.
        num_warmup_steps: Optimizer steps in which the learning rate rises linearly from 0.
        final_learning_rate: Share of ``learning_rate`` that is left at the end of the cosine.
        weight_decay: Decoupled decay, as AdamW has it, on matrices only.
        optimizer: ``adamw``, or ``muon`` for the layers' matrices and AdamW for the rest, which learns more in a step.
        max_grad_norm: Gradients longer than this are scaled down to it.
        gradient_accumulation_steps: Parts in which a batch is worked through, to save memory.
        precision: ``auto`` is bfloat16 where the hardware multiplies it, float32 elsewhere. Weights stay float32.
        seed: Makes the order of the data and every random choice.
        checkpoint_every: Number of optimizer steps between checkpoints; 0 makes none.
        averaged_share: Share of the steps, the last ones, over which the trained weights are averaged
            (:class:`moesaic.training.averaging.WeightAverage`); 0 takes the weights of the last step.
    """

    num_steps: int
    batch_size: int = 32
    sequence_length: int = 128
    learning_rate: float = 1e-3
    learning_rate_scales: Mapping[str, float] = field(default_factory=dict)
    num_warmup_steps: int = 20
    final_learning_rate: float = 0.1
    weight_decay: float = 0.1
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    precision: Precision = "auto"
    seed: int = 0
    checkpoint_every: int = 100
    averaged_share: float = 0.0

    @property
    def tokens_per_step(self) -> int:
        """Tokens that an optimizer step reads."""
        return self.batch_size * self.sequence_length

    @property
    def num_tokens(self) -> int:
        """Tokens that the whole stage reads."""
        return self.num_steps * self.tokens_per_step


def scale_of(name: str, scales: Mapping[str, float]) -> float:
    """Factor on the learning rate of the parameter called ``name``.

    Example:
        >>> scale_of("layers.0.mlp.up_proj.weight", {"*": 0, "*mlp*": 1, "*norm*": 0.1})
        1
    """
    matching = [scale for pattern, scale in scales.items() if fnmatchcase(name, pattern)]
    return matching[-1] if matching else 1.0


def freeze(network: nn.Module, scales: Mapping[str, float]) -> None:
    """Take the parameters whose learning rate is scaled by 0 out of the graph, and all others into it.

    Raises:
        ValueError: If nothing is left to train.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(scale_of(name, scales) != 0)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"learning_rate_scales {dict(scales)} freeze every parameter, so there is nothing to train.")


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type in which matrices are multiplied."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if has_bfloat16 else torch.float32
