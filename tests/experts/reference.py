"""What the experts layers of the tests are compared with: sums over all experts, written as in the papers."""

import torch
from torch.nn import functional as F

from moesaic.experts import grouped, looped

METHODS = [looped, *([grouped] if grouped.is_available() else [])]


def relative_error(result, expected):
    expected = expected.double()
    return ((result.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def swiglu_reference(hidden_states, gate_up_proj, down_proj, top_k_index, top_k_weights):
    """Every expert on every token, then the weights: ``(token, hidden)``."""
    num_experts = len(gate_up_proj)
    weights = hidden_states.new_zeros(len(hidden_states), num_experts + 1)
    weights = weights.scatter_add(1, top_k_index, top_k_weights.to(hidden_states.dtype))
    output = torch.zeros_like(hidden_states)
    for expert in range(num_experts):
        gate, up = (hidden_states @ gate_up_proj[expert].T).chunk(2, dim=-1)
        output = output + weights[:, expert, None] * ((F.silu(gate) * up) @ down_proj[expert].T)
    return output


def random_layer(num_tokens, hidden, half, num_experts, top_k, *, dtype=torch.float32, seed=0):
    """Hidden states, both weights, choices and routing weights, ready for gradients."""
    torch.manual_seed(seed)
    states = torch.randn(num_tokens, hidden)
    gate_up = torch.randn(num_experts, 2 * half, hidden) / hidden**0.5
    down = torch.randn(num_experts, hidden, half) / half**0.5
    index = torch.stack([torch.randperm(num_experts)[:top_k] for _ in range(num_tokens)] or [torch.zeros(top_k)]).long()
    weights = torch.rand(num_tokens, top_k)
    tensors = [tensor.to(dtype).requires_grad_() for tensor in (states, gate_up, down, weights)]
    return tensors[0], tensors[1], tensors[2], index[:num_tokens], tensors[3]
