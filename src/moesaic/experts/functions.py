"""Experts with gradients: forward and backward of the products, for autograd and for ``torch.compile``.

Two roads lead through an experts layer. SwiGLU experts (Mixtral, Qwen3-MoE, OLMoE, ...) go the fused one,
:func:`swiglu_experts`: of all that lies between input and output it keeps only the pre-activations. Any other gate or
bias goes in two steps with PyTorch between them, :func:`expert_rows` and :func:`combine_rows`.

What they do to plain tensors is in :mod:`moesaic.experts.operators`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from moesaic.experts import operators


@dataclass(frozen=True)
class TrainedParts:
    """The experts that are trained where it is not all, and their parts of both weights.

    Attributes:
        experts: Their ids.
        gate_up_proj: One tensor for each of them, with the memory of the whole.
        down_proj: The same of the down projection.
    """

    experts: list[int]
    gate_up_proj: list[Tensor]
    down_proj: list[Tensor]


def swiglu_experts(
    hidden_states: Float[Tensor, "token hidden"],
    gate_up_proj: Float[Tensor, "expert a b"],
    down_proj: Float[Tensor, "expert c d"],
    top_k_index: Int[Tensor, "token top_k"],
    top_k_weights: Float[Tensor, "token top_k"],
    *,
    dtype: torch.dtype,
    is_transposed: bool = False,
    trained: TrainedParts | None = None,
) -> Float[Tensor, "token hidden"]:
    """``Σ_j w_j down(silu(gate(x)) up(x))`` over the experts j of each token.

    Args:
        hidden_states: One vector a token.
        gate_up_proj: ``(expert, 2 intermediate, hidden)``, gate above up; with ``is_transposed`` the last two swapped.
        down_proj: ``(expert, hidden, intermediate)``; with ``is_transposed`` the last two swapped.
        top_k_index: Experts of each token; ids of ``expert`` and more are left out.
        top_k_weights: Their weights.
        dtype: The type in which is multiplied; sums are float32 (float64 for float64).
        is_transposed: How the weights lie in memory.
        trained: The experts that are trained, if it is not all; see :func:`moesaic.experts.train_only`.

    Returns:
        The sum, in the type of ``hidden_states``. Gradients reach the hidden states, the routing weights and the
        experts' weights, and are computed for what needs them only.

    Raises:
        ValueError: If an id is negative.

    Reference: Shazeer (2020), equation 6, https://arxiv.org/abs/2002.05202
    """
    tensors = (hidden_states, gate_up_proj, down_proj, top_k_index, top_k_weights)
    experts, parts = None, []
    if trained is not None:
        experts, parts = trained.experts, [*trained.gate_up_proj, *trained.down_proj]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, *parts)):
        return _SwigluExperts.apply(*tensors, is_transposed, dtype, experts, *parts)
    return operators.call(operators.swiglu_forward)(*tensors, is_transposed, dtype, False)[0]


def expert_rows(
    hidden_states: Float[Tensor, "token hidden"],
    weight: Float[Tensor, "expert a b"],
    top_k_index: Int[Tensor, "token top_k"],
    *,
    dtype: torch.dtype,
    is_transposed: bool = False,
) -> Float[Tensor, "slot width"]:
    """Multiply each token with the matrices of its experts.

    Args:
        hidden_states: One vector a token.
        weight: ``(expert, width, hidden)``; with ``is_transposed`` the last two swapped.
        top_k_index: Experts of each token; ids of ``expert`` and more are left out.
        dtype: The type in which is multiplied, and that of the result.
        is_transposed: How the weights lie in memory.

    Returns:
        One row for each token at each of its experts, sorted by expert and then by token; what is left of the
        ``token * top_k`` rows is zero.
    """
    return _ExpertRows.apply(hidden_states, weight, top_k_index, is_transposed, dtype)


def combine_rows(
    rows: Float[Tensor, "slot width"],
    weight: Float[Tensor, "expert a b"],
    top_k_index: Int[Tensor, "token top_k"],
    *,
    dtype: torch.dtype,
    is_transposed: bool = False,
) -> Float[Tensor, "token hidden"]:
    """Multiply rows, in the order of :func:`expert_rows`, with their experts' matrices and add up those of each token.

    Args:
        rows: One vector for each token at each of its experts.
        weight: ``(expert, hidden, width)``; with ``is_transposed`` the last two swapped.
        top_k_index: Experts of each token; ids of ``expert`` and more are left out.
        dtype: The type in which is multiplied.
        is_transposed: How the weights lie in memory.
    """
    return _CombineRows.apply(rows, weight, top_k_index, is_transposed, dtype)


class _SwigluExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        tensors, (is_transposed, dtype, trained) = arguments[:5], arguments[5:8]
        output, pre_activations = operators.call(operators.swiglu_forward)(*tensors, is_transposed, dtype, True)
        ctx.save_for_backward(*tensors, pre_activations)
        ctx.is_transposed, ctx.dtype, ctx.trained = is_transposed, dtype, trained
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        states, gate_up, down, _, weights = ctx.needs_input_grad[:5]
        parts = any(ctx.needs_input_grad[8:])
        wanted = [states, gate_up or parts, down or parts, weights]
        results = operators.call(operators.swiglu_backward)(
            gradient, *ctx.saved_tensors, ctx.is_transposed, ctx.dtype, ctx.trained, wanted
        )
        of_states, of_gate_up, of_down, of_weights = (
            result if want else None for result, want in zip(results, wanted, strict=True)
        )
        if ctx.trained is None:
            return of_states, of_gate_up, of_down, None, of_weights, None, None, None
        return of_states, None, None, None, of_weights, None, None, None, *results[1], *results[2]


class _ExpertRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, index: Tensor, is_transposed: bool, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(states, weight, index)
        ctx.is_transposed, ctx.dtype = is_transposed, dtype
        return operators.call(operators.rows_forward)(states, weight, index, is_transposed, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        states, weight, index = ctx.saved_tensors
        of_states = of_weight = None
        if ctx.needs_input_grad[0]:
            of_states = operators.call(operators.tokens_forward)(
                gradient, weight, index, not ctx.is_transposed, ctx.dtype, states.dtype
            )
        if ctx.needs_input_grad[1]:
            of_weight = operators.call(operators.weight_backward)(
                states, gradient, weight, index, ctx.is_transposed, ctx.dtype
            )
        return of_states, of_weight, None, None, None


class _CombineRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, index: Tensor, is_transposed: bool, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, index)
        ctx.is_transposed, ctx.dtype = is_transposed, dtype
        return operators.call(operators.tokens_forward)(rows, weight, index, is_transposed, dtype, rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, weight, index = ctx.saved_tensors
        of_rows = of_weight = None
        if ctx.needs_input_grad[0]:
            of_rows = operators.call(operators.rows_forward)(
                gradient, weight, index, not ctx.is_transposed, ctx.dtype
            ).to(rows.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = operators.call(operators.weight_backward)(
                gradient, rows, weight, index, not ctx.is_transposed, ctx.dtype
            )
        return of_rows, of_weight, None, None, None
