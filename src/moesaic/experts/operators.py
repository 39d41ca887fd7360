"""What experts do to plain tensors, forward and backward; :mod:`moesaic.experts.functions` makes gradients of it.

The products are those of one of two modules with the same functions, native or in PyTorch; see
:mod:`moesaic.experts.methods`. Each function here is called directly, or, while ``torch.compile`` traces, as an
operator that the compiler does not look into.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moesaic.experts.methods import choose_method
from moesaic.experts.rows import borrowed_rows


def swiglu_forward(
    hidden_states: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    is_transposed: bool,
    dtype: torch.dtype,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The output, and the pre-activations where they are to be kept."""
    method = choose_method(dtype, top_k_index.numel(), len(gate_up_proj))
    rows = method.sort_by_expert(top_k_index, len(gate_up_proj))
    up, down = _matrix(gate_up_proj, is_transposed), _matrix(down_proj, is_transposed)
    width = up.shape[1] if keep else 0
    pre_activations = torch.empty(top_k_index.numel(), width, dtype=dtype, device=hidden_states.device)
    output = torch.empty(hidden_states.shape, dtype=hidden_states.dtype, device=hidden_states.device)
    with borrowed_rows(rows.num_rows, up.shape[1] // 2, dtype) as activations:
        method.swiglu_rows(
            hidden_states.contiguous(),
            up,
            _weights_of_slots(top_k_weights),
            rows,
            dtype=dtype,
            activations=activations,
            pre_activations=pre_activations[: rows.num_rows] if keep else None,
        )
        method.tokens_from_rows(activations, down, rows, dtype=dtype, out=output)
    return output, pre_activations


def swiglu_backward(
    gradient: Tensor,
    hidden_states: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    pre_activations: Tensor,
    is_transposed: bool,
    dtype: torch.dtype,
    trained: list[int] | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of states, both weights (of the trained experts) and routing weights; empty where none is wanted."""
    method = choose_method(dtype, top_k_index.numel(), len(gate_up_proj))
    rows = method.sort_by_expert(top_k_index, len(gate_up_proj))
    up, down = _matrix(gate_up_proj, is_transposed), _matrix(down_proj, is_transposed)
    gradient, hidden_states = gradient.contiguous(), hidden_states.contiguous()
    want_states, want_gate_up, want_down, want_weights = wanted
    of_states = torch.empty(hidden_states.shape if want_states else 0, dtype=hidden_states.dtype)
    of_gate_up = _new_gradient(gate_up_proj, trained, want_gate_up)
    of_down = _new_gradient(down_proj, trained, want_down)
    weights = _weights_of_slots(top_k_weights)
    of_weights = torch.zeros(weights.shape if want_weights else 0, dtype=weights.dtype)
    width = up.shape[1]
    with (
        borrowed_rows(rows.num_rows, width, dtype) as of_pre_activations,
        borrowed_rows(rows.num_rows, width // 2, dtype) as activations,
    ):
        method.swiglu_rows_gradient(
            gradient,
            down.transpose(1, 2),
            weights,
            rows,
            dtype=dtype,
            pre_activations=pre_activations[: rows.num_rows],
            pre_activation_gradient=of_pre_activations if want_states or want_gate_up else None,
            activations=activations if want_down else None,
            weight_gradient=of_weights if want_weights else None,
        )
        if want_states:
            method.tokens_from_rows(of_pre_activations, up.transpose(1, 2), rows, dtype=dtype, out=of_states)
        if want_gate_up:
            out = _gradients_of_experts(of_gate_up, trained, len(gate_up_proj))
            method.weight_gradient(
                hidden_states, of_pre_activations, rows, dtype=dtype, tokens_first=is_transposed, out=out
            )
        if want_down:
            out = _gradients_of_experts(of_down, trained, len(down_proj))
            method.weight_gradient(gradient, activations, rows, dtype=dtype, tokens_first=not is_transposed, out=out)
    if want_weights:
        of_weights = of_weights.view(top_k_weights.shape).to(top_k_weights.dtype)
    return of_states, of_gate_up, of_down, of_weights


def rows_forward(
    hidden_states: Tensor, weight: Tensor, top_k_index: Tensor, is_transposed: bool, dtype: torch.dtype
) -> Tensor:
    """One row for each token at each of its experts; what is left is zero."""
    method = choose_method(dtype, top_k_index.numel(), len(weight))
    rows = method.sort_by_expert(top_k_index, len(weight))
    matrix = _matrix(weight, is_transposed)
    output = torch.empty(top_k_index.numel(), matrix.shape[1], dtype=dtype)
    output[rows.num_rows :] = 0
    method.rows_from_tokens(hidden_states.contiguous(), matrix, rows, dtype=dtype, out=output[: rows.num_rows])
    return output


def tokens_forward(
    row_values: Tensor,
    weight: Tensor,
    top_k_index: Tensor,
    is_transposed: bool,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
) -> Tensor:
    """The sum over the rows of each token."""
    method = choose_method(dtype, top_k_index.numel(), len(weight))
    rows = method.sort_by_expert(top_k_index, len(weight))
    matrix = _matrix(weight, is_transposed)
    output = torch.empty(len(top_k_index), matrix.shape[1], dtype=output_dtype)
    method.tokens_from_rows(row_values.contiguous()[: rows.num_rows], matrix, rows, dtype=dtype, out=output)
    return output


def weight_backward(
    token_values: Tensor,
    row_values: Tensor,
    weight: Tensor,
    top_k_index: Tensor,
    tokens_first: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient of the weights that lie between vectors of tokens and of rows."""
    method = choose_method(dtype, top_k_index.numel(), len(weight))
    rows = method.sort_by_expert(top_k_index, len(weight))
    output = torch.empty(weight.shape, dtype=weight.dtype)
    method.weight_gradient(
        token_values.contiguous(),
        row_values.contiguous()[: rows.num_rows],
        rows,
        dtype=dtype,
        tokens_first=tokens_first,
        out=list(output),
    )
    return output


def _matrix(weight: Tensor, is_transposed: bool) -> Tensor:
    """A weight as ``(expert, column, length)``, one of the two contiguous."""
    if 1 not in weight.stride()[1:]:
        weight = weight.contiguous()
    return weight.transpose(1, 2) if is_transposed else weight


def _weights_of_slots(top_k_weights: Tensor) -> Tensor:
    return top_k_weights.reshape(-1).to(torch.promote_types(top_k_weights.dtype, torch.float32))


def _new_gradient(weight: Tensor, trained: list[int] | None, wanted: bool) -> Tensor:
    if not wanted:
        return torch.empty(0, dtype=weight.dtype)
    num_experts = len(weight) if trained is None else len(trained)
    return torch.empty(num_experts, *weight.shape[1:], dtype=weight.dtype)


def _gradients_of_experts(gradient: Tensor, trained: list[int] | None, num_experts: int) -> list[Tensor | None]:
    """The part of each expert, ``None`` for those that are not trained."""
    if trained is None:
        return list(gradient)
    places = {expert: place for place, expert in enumerate(trained)}
    return [gradient[places[expert]] if expert in places else None for expert in range(num_experts)]


# Operators of the same names for torch.compile. Each returns new tensors, and one for every output.


def _fake_swiglu_forward(
    hidden_states: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    is_transposed: bool,
    dtype: torch.dtype,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    width = gate_up_proj.shape[2 if is_transposed else 1] if keep else 0
    pre_activations = hidden_states.new_empty(top_k_index.numel(), width, dtype=dtype)
    return hidden_states.new_empty(hidden_states.shape), pre_activations


def _fake_swiglu_backward(
    gradient: Tensor,
    hidden_states: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    pre_activations: Tensor,
    is_transposed: bool,
    dtype: torch.dtype,
    trained: list[int] | None,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    num_experts = len(gate_up_proj) if trained is None else len(trained)
    gate_up_shape, down_shape = (num_experts, *gate_up_proj.shape[1:]), (num_experts, *down_proj.shape[1:])
    shapes = (hidden_states.shape, gate_up_shape, down_shape, top_k_weights.shape)
    like = (hidden_states, gate_up_proj, down_proj, top_k_weights)
    return tuple(
        tensor.new_empty(shape if want else 0) for tensor, shape, want in zip(like, shapes, wanted, strict=True)
    )


def _fake_rows_forward(
    hidden_states: Tensor, weight: Tensor, top_k_index: Tensor, is_transposed: bool, dtype: torch.dtype
) -> Tensor:
    return hidden_states.new_empty(top_k_index.numel(), weight.shape[2 if is_transposed else 1], dtype=dtype)


def _fake_tokens_forward(
    row_values: Tensor,
    weight: Tensor,
    top_k_index: Tensor,
    is_transposed: bool,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
) -> Tensor:
    return row_values.new_empty(len(top_k_index), weight.shape[2 if is_transposed else 1], dtype=output_dtype)


def _fake_weight_backward(
    token_values: Tensor,
    row_values: Tensor,
    weight: Tensor,
    top_k_index: Tensor,
    tokens_first: bool,
    dtype: torch.dtype,
) -> Tensor:
    return weight.new_empty(weight.shape)


def _register(function: Any, fake: Any, schema: str) -> Any:
    operator = torch.library.custom_op(f"moesaic::{function.__name__}", function, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    return operator


_LAYER = "Tensor hidden_states, Tensor gate_up_proj, Tensor down_proj, Tensor top_k_index, Tensor top_k_weights"

_OPERATORS = {
    swiglu_forward: _register(
        swiglu_forward,
        _fake_swiglu_forward,
        f"({_LAYER}, bool is_transposed, ScalarType dtype, bool keep) -> (Tensor, Tensor)",
    ),
    swiglu_backward: _register(
        swiglu_backward,
        _fake_swiglu_backward,
        f"(Tensor gradient, {_LAYER}, Tensor pre_activations, bool is_transposed, ScalarType dtype, int[]? trained, "
        "bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    ),
    rows_forward: _register(
        rows_forward,
        _fake_rows_forward,
        "(Tensor hidden_states, Tensor weight, Tensor top_k_index, bool is_transposed, ScalarType dtype) -> Tensor",
    ),
    tokens_forward: _register(
        tokens_forward,
        _fake_tokens_forward,
        "(Tensor row_values, Tensor weight, Tensor top_k_index, bool is_transposed, ScalarType dtype, "
        "ScalarType output_dtype) -> Tensor",
    ),
    weight_backward: _register(
        weight_backward,
        _fake_weight_backward,
        "(Tensor token_values, Tensor row_values, Tensor weight, Tensor top_k_index, bool tokens_first, "
        "ScalarType dtype) -> Tensor",
    ),
}


def call(function: Any) -> Any:
    """The function, or its operator while a compiler is tracing."""
    return _OPERATORS[function] if torch.compiler.is_compiling() else function
