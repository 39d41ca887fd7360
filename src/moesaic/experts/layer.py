"""The experts layer of any Transformers mixture-of-experts class, on moesaic's kernels.

:func:`experts_forward` is what ``model.set_experts_implementation("moesaic")`` puts in the place of a class's own.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface, _default_apply_gate

from moesaic.experts.frozen import trained_parts
from moesaic.experts.functions import combine_rows, expert_rows, swiglu_experts

IMPLEMENTATION = "moesaic"
"""The word for ``set_experts_implementation``."""


def experts_forward(
    module: nn.Module,
    hidden_states: Float[Tensor, "token hidden"],
    top_k_index: Int[Tensor, "token top_k"],
    top_k_weights: Float[Tensor, "token top_k"],
) -> Float[Tensor, "token hidden"]:
    """Run the experts of one layer.

    Args:
        module: A Transformers experts module: its fused weights and the flags that say how they lie.
        hidden_states: One vector a token.
        top_k_index: Experts of each token; ids of ``num_experts`` and more are left out.
        top_k_weights: Their weights.

    Returns:
        ``Σ_j w_j f_j(x)`` of each token, in the type of ``hidden_states``.

    Raises:
        ValueError: If an id is negative.
    """
    experts: Any = module
    if not _is_ours(experts, hidden_states):
        return _best_of_transformers(experts, hidden_states, top_k_index)(
            experts, hidden_states, top_k_index, top_k_weights
        )
    dtype = _compute_type(hidden_states, experts.down_proj)
    if _is_swiglu(experts):
        return swiglu_experts(
            hidden_states,
            experts.gate_up_proj,
            experts.down_proj,
            top_k_index,
            top_k_weights,
            dtype=dtype,
            is_transposed=experts.is_transposed,
            trained=trained_parts(experts),
        )
    return _with_any_gate(experts, hidden_states, top_k_index, top_k_weights, dtype)


def _with_any_gate(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, dtype: torch.dtype
) -> Tensor:
    """Experts with biases, or with a gate of their own that PyTorch computes between the two products."""
    num_experts, is_transposed = experts.num_experts, experts.is_transposed
    up_proj = experts.gate_up_proj if experts.has_gate else experts.up_proj
    expert_of_row, order = torch.sort(top_k_index.flatten(), stable=True)
    # Sentinels stand last, and their rows are zero; they take the last expert's bias, and no weight.
    is_sentinel = expert_of_row >= num_experts
    expert_of_row = expert_of_row.clamp_max(num_experts - 1)
    weight_of_row = top_k_weights.flatten()[order].masked_fill(is_sentinel, 0.0)

    rows = expert_rows(hidden_states, up_proj, top_k_index, dtype=dtype, is_transposed=is_transposed)
    if experts.has_bias:
        bias = experts.gate_up_proj_bias if experts.has_gate else experts.up_proj_bias
        rows = rows + bias.to(dtype)[expert_of_row]
    rows = experts._apply_gate(rows) if experts.has_gate else experts.act_fn(rows)
    rows = (rows * weight_of_row[:, None].to(rows.dtype)).to(dtype)
    output = combine_rows(rows, experts.down_proj, top_k_index, dtype=dtype, is_transposed=is_transposed)
    if experts.has_bias:
        # Σ_j w_j b_j, through each token's weights over all experts.
        weights = top_k_weights.new_zeros(len(top_k_index), num_experts + 1)
        weights = weights.scatter_add(1, top_k_index.clamp_max(num_experts), top_k_weights)
        output = output + weights[:, :num_experts].to(dtype) @ experts.down_proj_bias.to(dtype)
    return output.to(hidden_states.dtype)


def _is_ours(experts: Any, hidden_states: Tensor) -> bool:
    """Whether these kernels can run the layer: on a CPU, whole weights, nothing between experts and their sum."""
    is_sharded = hasattr(experts.down_proj, "to_local")  # a DTensor: Transformers' own functions know what to do
    return hidden_states.device.type == "cpu" and not experts.has_post_expert_norm and not is_sharded


def _is_swiglu(experts: Any) -> bool:
    has_plain_gate = experts.has_gate and type(experts)._apply_gate is _default_apply_gate
    return has_plain_gate and not experts.has_bias and isinstance(experts.act_fn, (nn.SiLU, SiLUActivation))


def _compute_type(hidden_states: Tensor, weight: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(hidden_states.device.type):
        return torch.get_autocast_dtype(hidden_states.device.type)
    return weight.dtype


def _best_of_transformers(experts: Any, hidden_states: Tensor, top_k_index: Tensor) -> Any:
    """Transformers' own function for what is not ours: a GPU's grouped product, or a batched one for a few tokens."""
    few = top_k_index.numel() <= experts.num_experts and hidden_states.device.type == "cuda"
    return ALL_EXPERTS_FUNCTIONS["batched_mm" if few else "grouped_mm"]


ExpertsInterface.register(IMPLEMENTATION, experts_forward)
