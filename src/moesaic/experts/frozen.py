"""Train some experts of a sparse model and leave the others alone, at the cost of those that are trained.

All experts of a layer share one weight tensor, so autograd alone would compute the gradient of all of them, and an
optimizer would keep moments for all. :func:`train_only` makes each trained expert's part a parameter of its own that
shares the memory of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from moesaic.experts.functions import TrainedParts

_TRAINED = "trained_experts"


class _TrainedExperts(nn.Module):
    """The parts of some experts in both weights of a layer; optimizers find them as parameters."""

    def __init__(self, layer: Any, experts: Sequence[int]) -> None:
        super().__init__()
        self.experts = list(experts)
        self.gate_up_proj = nn.ParameterList(nn.Parameter(layer.gate_up_proj.detach()[expert]) for expert in experts)
        self.down_proj = nn.ParameterList(nn.Parameter(layer.down_proj.detach()[expert]) for expert in experts)


def trained_parts(layer: nn.Module) -> TrainedParts | None:
    """The trained experts of a layer and their weights; ``None`` where all are trained alike."""
    trained = getattr(layer, _TRAINED, None)
    if trained is None:
        return None
    return TrainedParts(trained.experts, list(trained.gate_up_proj), list(trained.down_proj))


@contextmanager
def train_only(network: nn.Module, experts: Sequence[int]) -> Iterator[None]:
    """Within a block, of all experts of a network only these are trained.

    The fused weights need no gradient within the block; in their place the network has a parameter for each trained
    expert's part of them, with the same memory, so an optimizer made within the block keeps moments for those alone.
    Everything else is as trainable as it was.

    Args:
        network: A sparse Transformers model.
        experts: Which experts, in every layer.

    Raises:
        ValueError: If there is no such expert, or the network has no SwiGLU experts.

    Example:
        >>> from moesaic.testing import tiny_mixtral
        >>> network = tiny_mixtral(num_local_experts=4)
        >>> with train_only(network, [3]):
        ...     names = [name for name, value in network.named_parameters() if value.requires_grad]
        >>> next(name for name in names if "experts" in name)
        'model.layers.0.mlp.experts.trained_experts.gate_up_proj.0'
    """
    layers: list[Any] = [module for module in network.modules() if _has_swiglu_weights(module)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no experts with gate_up_proj and down_proj to train.")
    for layer in layers:
        unknown = [expert for expert in experts if not 0 <= expert < layer.num_experts]
        if unknown or not experts or len(set(experts)) < len(experts):
            raise ValueError(
                f"experts {list(experts)} are not a choice of the {layer.num_experts} experts of a layer; name each at "
                f"most once, from 0 to {layer.num_experts - 1}."
            )
    needed = [(layer.gate_up_proj.requires_grad, layer.down_proj.requires_grad) for layer in layers]
    for layer in layers:
        layer.gate_up_proj.requires_grad_(False)
        layer.down_proj.requires_grad_(False)
        layer.add_module(_TRAINED, _TrainedExperts(layer, experts))
    try:
        yield
    finally:
        for layer, (gate_up, down) in zip(layers, needed, strict=True):
            delattr(layer, _TRAINED)
            layer.gate_up_proj.requires_grad_(gate_up)
            layer.down_proj.requires_grad_(down)


def _has_swiglu_weights(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("gate_up_proj", "down_proj", "num_experts", "has_gate"))
