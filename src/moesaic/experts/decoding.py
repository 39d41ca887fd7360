"""Linear layers for a few rows at a time, as in decoding: each weight is read once, as fast as memory gives it.

PyTorch multiplies one row of bfloat16 with a matrix through the same kernel as many rows, which takes about three times
as long as reading the matrix; attention's projections and the output layer then cost as much as the experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moesaic.experts import grouped

FEW_ROWS = 8
"""Up to so many rows a weight is read without packing it first; ``FEW_ROWS`` in grouped.cpp."""


class FewRowsLinear(nn.Linear):
    """A linear layer that multiplies a few rows by itself, and leaves many, and training, to PyTorch."""

    def forward(self, input: Float[Tensor, "*axes length"]) -> Float[Tensor, "*axes column"]:
        """``input @ weight.T``."""
        is_plain = input.dtype == self.weight.dtype and not torch.is_grad_enabled()
        if not is_plain or input.numel() > FEW_ROWS * self.in_features or torch.compiler.is_compiling():
            return super().forward(input)
        output = torch.empty(*input.shape[:-1], self.out_features, dtype=input.dtype)
        # The output layer is given a view, the last position of every sequence of a batch.
        rows = input.reshape(-1, self.in_features).contiguous()
        grouped.multiply_rows(rows, self.weight, out=output.view(-1, self.out_features))
        return output


@contextmanager
def fast_decoding(network: nn.Module) -> Iterator[None]:
    """Within a block, a network's linear layers run on kernels for a few rows, where that is faster.

    It is on CPUs, without gradients, for up to eight rows; everything else is computed as before. Weights, their names
    and what is saved stay the same.

    Args:
        network: Any model; layers that are adapted, quantized, on a GPU or have a bias are left alone.

    Example:
        >>> from moesaic.testing import tiny_mixtral
        >>> network = tiny_mixtral()
        >>> with fast_decoding(network):
        ...     tokens = network.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False)
        >>> tokens.shape
        torch.Size([1, 5])
    """
    layers = [module for module in network.modules() if type(module) is nn.Linear and _can_be_faster(module)]
    # Another class for the same object, as long as it lasts: names, weights and hooks stay what and where they are.
    for layer in layers:
        layer.__class__ = FewRowsLinear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear


def _can_be_faster(layer: nn.Linear) -> bool:
    weight = layer.weight
    is_ours = grouped.is_available() and grouped.instruction_set() > grouped.InstructionSet.PORTABLE
    return (
        is_ours
        and layer.bias is None
        and weight.device.type == "cpu"
        and grouped.supports(weight.dtype)
        and weight.is_contiguous()
    )
