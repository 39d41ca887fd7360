"""Training networks of one shape as one stacked model: each learns what it would by itself, in less time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from moesaic.data import ExampleBatch, ExampleSampler
from moesaic.members import StackedMembers
from moesaic.training.loop import fit
from moesaic.training.objectives import Losses, Objective
from moesaic.training.options import TrainingOptions


def fit_stacked(
    networks: Sequence[nn.Module],
    samplers: Sequence[ExampleSampler],
    objective: Objective,
    options: TrainingOptions,
) -> list[nn.Module]:
    """Train networks of one shape as one stacked model, each on batches of its own.

    Up to rounding, and to where dropout falls, each comes out as from :func:`moesaic.training.fit`: the members' losses
    are added up, and gradients are clipped and weights decay member by member.

    Args:
        networks: What is trained; each maps one tensor to one tensor. They are copied.
        samplers: One a network; their batches have one shape.
        objective: A mean over the rows of a batch, of what the network makes of ``batch.inputs``.
        options: How each is trained, by itself; parts of a batch and scaled learning rates are not for stacked ones.

    Returns:
        The trained networks.

    Raises:
        ValueError: If the networks are not of one shape, or the options cannot be kept.
    """
    if not trains_stacked(options):
        raise ValueError(
            "Stacked members are trained in one part, with one learning rate and AdamW: leave out "
            "gradient_accumulation_steps, learning_rate_scales and optimizer, or train the members one after the other."
        )
    joined = StackedMembers(networks)

    def sum_over_members(network: Any, batch: ExampleBatch) -> Losses:
        losses = objective(network, batch)
        return Losses(len(networks) * losses.total, losses.parts)

    options = replace(options, batch_size=len(networks) * options.batch_size)
    fit(_RowsOfMembers(joined), _JoinedSampler(tuple(samplers)), sum_over_members, options, per_member=True)
    return [network.eval() for network in joined.unstack()]


def trains_stacked(options: TrainingOptions) -> bool:
    """Whether :func:`fit_stacked` can keep the options."""
    is_plain = not options.learning_rate_scales and options.optimizer == "adamw"
    return is_plain and options.gradient_accumulation_steps == 1


class _RowsOfMembers(nn.Module):
    """Stacked members as one network for batches that hold the rows of one member after the other."""

    def __init__(self, joined: StackedMembers) -> None:
        super().__init__()
        self.joined = joined

    def forward(self, rows: Tensor) -> Tensor:
        by_member = rows.unflatten(0, (self.joined.num_members, -1))
        outputs: Tensor = self.joined(by_member, per_member=True)
        return outputs.flatten(0, 1)


@dataclass(frozen=True)
class _JoinedSampler:
    samplers: tuple[ExampleSampler, ...]

    def batch(self, step: int) -> ExampleBatch:
        """Every member's batch of a step, one below the other."""
        batches = [sampler.batch(step) for sampler in self.samplers]
        inputs = zip(*(batch.inputs for batch in batches), strict=True)
        return ExampleBatch(
            tuple(torch.cat(parts) for parts in inputs),
            torch.cat([batch.labels for batch in batches]),
            _join([batch.weights for batch in batches]),
            _join([batch.offsets for batch in batches]),
        )


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None
