"""Products of rows and experts' matrices in PyTorch, expert by expert: where :mod:`moesaic.experts.grouped` cannot run.

The functions are those of ``grouped``, with the same arguments; look there for what they mean. Each expert's operands
and results stay in the cache from one operation to the next, which those of a whole batch do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from moesaic.experts.rows import ExpertRows


def sort_by_expert(top_k_index: Tensor, num_experts: int) -> ExpertRows:
    """Sort the choices of all tokens by expert."""
    num_tokens, top_k = top_k_index.shape
    flat = top_k_index.flatten()
    if flat.numel() and int(flat.min()) < 0:
        raise ValueError(
            f"top_k_index has the id {int(flat.min())}; experts are 0 to {num_experts - 1}, and {num_experts} "
            "marks a choice that is left out."
        )
    counts = torch.bincount(flat.clamp_max(num_experts), minlength=num_experts + 1)[:num_experts]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    order = torch.sort(flat, stable=True).indices[: int(offsets[-1])]
    return ExpertRows(order, order // top_k, offsets, num_tokens, top_k)


def rows_from_tokens(tokens: Tensor, matrix: Tensor, rows: ExpertRows, *, dtype: torch.dtype, out: Tensor) -> None:
    """Multiply each row's token with its expert's matrix."""
    for expert, here in _experts(rows):
        values = tokens.index_select(0, rows.token_of_row[here]).to(dtype)
        torch.mm(values, matrix[expert].t().to(dtype), out=out[here])


def swiglu_rows(
    tokens: Tensor,
    matrix: Tensor,
    weights: Tensor,
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    activations: Tensor,
    pre_activations: Tensor | None,
) -> None:
    """The first half of SwiGLU experts."""
    for expert, here in _experts(rows):
        values = tokens.index_select(0, rows.token_of_row[here]).to(dtype)
        gate_up = values @ matrix[expert].t().to(dtype)
        if pre_activations is not None:
            pre_activations[here] = gate_up
        gate, up = gate_up.chunk(2, dim=-1)
        activation = F.silu(gate).mul_(up)
        activations[here] = activation.mul_(weights[rows.order[here], None])


def swiglu_rows_gradient(
    gradient: Tensor,
    matrix: Tensor,
    weights: Tensor,
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    pre_activations: Tensor,
    pre_activation_gradient: Tensor | None,
    activations: Tensor | None,
    weight_gradient: Tensor | None,
) -> None:
    """The backward pass of the second half of SwiGLU experts and of the activation between."""
    for expert, here in _experts(rows):
        slots = rows.order[here]
        values = gradient.index_select(0, rows.token_of_row[here]).to(dtype)
        activation_gradient = values @ matrix[expert].t().to(dtype)  # (row, half)
        gate, up = pre_activations[here].chunk(2, dim=-1)
        silu = F.silu(gate)
        activation = silu * up
        if weight_gradient is not None:
            weight_gradient[slots] = (activation_gradient * activation).sum(-1, dtype=weight_gradient.dtype)
        weight = weights[slots, None]
        if activations is not None:
            activations[here] = activation * weight
        if pre_activation_gradient is not None:
            activation_gradient.mul_(weight)
            half = up.shape[-1]
            pre_activation_gradient[here, :half] = torch.ops.aten.silu_backward(activation_gradient * up, gate)
            pre_activation_gradient[here, half:] = activation_gradient * silu


def tokens_from_rows(row_values: Tensor, matrix: Tensor, rows: ExpertRows, *, dtype: torch.dtype, out: Tensor) -> None:
    """Multiply rows with their experts' matrices and add up those of each token."""
    # Sums of several experts round once, as the native kernels' do.
    sums = torch.zeros_like(out, dtype=torch.promote_types(out.dtype, torch.float32))
    for expert, here in _experts(rows):
        values = row_values[here].to(dtype) @ matrix[expert].t().to(dtype)
        sums.index_add_(0, rows.token_of_row[here], values.to(sums.dtype))
    out.copy_(sums)


def weight_gradient(
    token_values: Tensor,
    row_values: Tensor,
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    tokens_first: bool,
    out: Sequence[Tensor | None],
) -> None:
    """Sum of outer products over the rows of each expert."""
    for gradient in out:
        if gradient is not None:
            gradient.zero_()
    for expert, here in _experts(rows):
        gradient = out[expert]
        if gradient is None:
            continue
        of_tokens = token_values.index_select(0, rows.token_of_row[here]).to(dtype)
        of_rows = row_values[here].to(dtype)
        left, right = (of_tokens, of_rows) if tokens_first else (of_rows, of_tokens)
        if gradient.dtype == dtype:
            torch.mm(left.t(), right, out=gradient)
        else:
            gradient.copy_(left.t() @ right)


def _experts(rows: ExpertRows) -> Iterator[tuple[int, slice]]:
    """Each expert that has rows, and where they are."""
    offsets = rows.offsets.tolist()
    for expert, (begin, end) in enumerate(pairwise(offsets)):
        if begin < end:
            yield expert, slice(begin, end)
