"""The mean of a network's weights over the last steps of its training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesaic.training.options import TrainingOptions


class WeightAverage:
    """The mean of the weights that the last steps made, for networks that do better than any single step's.

    Attributes:
        mean: The mean so far, by the parameters' names; empty until the first step that counts.

    References: the average of the last checkpoints of Vaswani et al. (2017), section 6.1,
    https://arxiv.org/abs/1706.03762, here of every step; Izmailov et al. (2018), https://arxiv.org/abs/1803.05407.
    """

    def __init__(self, options: TrainingOptions) -> None:
        self._first_step = options.num_steps - round(options.averaged_share * options.num_steps)
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, network: nn.Module, step: int) -> None:
        """Count what a step made, if it is one of the last."""
        if step < self._first_step:
            return
        weights = _trained(network)
        if not self.mean:
            self.mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for name, weight in weights.items():
            self.mean[name].lerp_(weight, 1 / (step - self._first_step + 1))

    @torch.no_grad()
    def put_into(self, network: nn.Module) -> None:
        """Give a network the mean; it stays as it is where no step counts."""
        if self.mean:
            for name, weight in _trained(network).items():
                weight.copy_(self.mean[name])


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
