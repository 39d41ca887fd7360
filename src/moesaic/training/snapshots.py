"""Several members from one training, and averages of weights: the cheapest ensembles there are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from moesaic.data import BatchSampler, ExampleSampler
from moesaic.training.objectives import Objective
from moesaic.training.options import TrainingOptions
from moesaic.training.records import OnStep
from moesaic.training.rounds import fit_round

_Network = TypeVar("_Network", bound=nn.Module)


def fit_snapshots(
    network: _Network,
    sampler: BatchSampler | ExampleSampler,
    objective: Objective,
    options: TrainingOptions,
    *,
    num_cycles: int,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> list[_Network]:
    """Train once, with a learning rate that falls and rises again, and keep the model at the end of every fall.

    Args:
        network: What is trained, in place.
        sampler: Gives the batches; every cycle goes on where the one before stopped.
        objective: What is minimized.
        options: How; ``num_steps`` are those of all cycles together, the warm-up is that of each.
        num_cycles: Number of snapshots.
        folder: Where finished cycles are kept, so that a call that was killed can be given again.
        on_step: Told of every step.

    Returns:
        The snapshots, the last one being the trained network. Averaging their outputs is a snapshot ensemble;
        averaging their parameters is stochastic weight averaging.

    Raises:
        ValueError: If there are fewer steps than cycles, or no cycle.

    References: Huang et al. (2017), section 3, https://arxiv.org/abs/1704.00109; Izmailov et al. (2018), section 3,
    https://arxiv.org/abs/1803.05407
    """
    if not 1 <= num_cycles <= options.num_steps:
        raise ValueError(f"num_cycles must be from 1 to num_steps ({options.num_steps}), got {num_cycles}.")
    num_steps = options.num_steps // num_cycles
    snapshots: list[_Network] = []
    for cycle in range(num_cycles):
        part = replace(options, num_steps=num_steps)
        batches = replace(sampler, first_step=sampler.first_step + cycle * num_steps)
        place = None if folder is None else folder / f"cycle-{cycle + 1}"
        fit_round(network, batches, objective, part, folder=place, on_step=on_step)
        snapshots.append(network if cycle == num_cycles - 1 else copy.deepcopy(network))
    return snapshots


def average_parameters(networks: Sequence[_Network]) -> _Network:
    """One model whose parameters are the mean of those of models of one shape (a soup).

    Reference: Wortsman et al. (2022), section 2, https://arxiv.org/abs/2203.05482
    """
    average = copy.deepcopy(networks[0])
    others = [dict(network.named_parameters()) for network in networks]
    with torch.no_grad():
        for name, parameter in average.named_parameters():
            parameter.copy_(torch.stack([other[name].float() for other in others]).mean(0))
    return average


def greedy_soup(networks: Sequence[_Network], loss: Callable[[_Network], float]) -> tuple[_Network, list[int]]:
    """Average the parameters of those models that lower the held-out loss, tried from the best to the worst.

    Args:
        networks: Models of one shape.
        loss: The loss of a model on held-out data.

    Returns:
        The soup, and which models are in it, in the order in which they were added.

    Reference: Wortsman et al. (2022), recipe 1, https://arxiv.org/abs/2203.05482
    """
    alone = [loss(network) for network in networks]
    order = sorted(range(len(networks)), key=alone.__getitem__)
    chosen, best = order[:1], alone[order[0]]
    for candidate in order[1:]:
        tried = loss(average_parameters([networks[index] for index in (*chosen, candidate)]))
        if tried < best:
            chosen, best = [*chosen, candidate], tried
    return average_parameters([networks[index] for index in chosen]), chosen
