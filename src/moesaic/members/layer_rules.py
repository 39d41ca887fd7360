"""How a layer is run for many members at once: one small function a kind of layer.

A stacked layer is an ordinary layer, except that its parameters and buffers have a leading member axis. Activations
are ``(member, batch, ..., feature)``. A layer without a rule runs under :func:`torch.func.vmap`, which needs nothing
from us but is slower, and has no rule of its own for attention on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap
from torch.nn import functional as F

Rule = Callable[[Any, Tensor], Tensor]
"""From a stacked layer and the activations of all members to what the layer makes of them."""

_R = TypeVar("_R", bound=Rule)

_RULES: dict[type[nn.Module], Rule] = {}

LONGEST_UNFUSED = 48
"""Positions up to which attention is two batched products and a softmax.

The fused kernel takes one head of one sequence at a time, which for short sequences is mostly overhead; for long ones
it saves the memory of ``position x position`` weights.
"""


def layer_rule(*classes: type[nn.Module]) -> Callable[[_R], _R]:
    """Register how layers of exactly these classes are run for all members.

    Example:
        >>> class Double(nn.Module):
        ...     def forward(self, inputs):
        ...         return 2 * inputs
        >>> @layer_rule(Double)
        ... def double(layer, inputs):
        ...     return 2 * inputs
        >>> has_rules(nn.Sequential(nn.Linear(3, 3), Double()))
        True
    """

    def register(rule: _R) -> _R:
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def find_rule(layer: nn.Module) -> Rule | None:
    """The rule for a layer's class, where it covers the layer's settings; ``None`` if there is none."""
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return None  # a rule would not call them
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.sparse or layer.scale_grad_by_freq):
        return None
    if isinstance(layer, nn.MultiheadAttention) and not _is_plain(layer):
        return None
    if isinstance(layer, nn.TransformerEncoderLayer) and find_rule(layer.self_attn) is None:
        return None
    return _RULES.get(type(layer))


def has_rules(module: nn.Module) -> bool:
    """Whether a module, with all that it is made of, runs by rules."""
    parts = (part for part in module.modules() if type(part) is not nn.ModuleList)
    return all(find_rule(part) is not None for part in parts)


def run_layer(layer: nn.Module, inputs: Shaped[Tensor, "member ..."]) -> Shaped[Tensor, "member ..."]:
    """Run a stacked layer by its rule, or under ``vmap`` if it has none.

    Raises:
        ValueError: If it has none and ``vmap`` cannot run it either, as where a forward looks at a tensor's values.
    """
    rule = find_rule(layer)
    return _run_under_vmap(layer, inputs) if rule is None else rule(layer, inputs)


def _run_under_vmap(layer: nn.Module, inputs: Tensor) -> Tensor:
    def run_member(tensors: dict[str, Tensor], rows: Tensor) -> Tensor:
        return functional_call(layer, tensors, (rows,))

    tensors = dict(layer.named_parameters()) | dict(layer.named_buffers())
    try:
        return vmap(run_member, randomness="different")(tensors, inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(layer).__name__} has no rule to run stacked, and torch.func.vmap cannot run it "
            f"({str(error).splitlines()[0]}). Give it a rule with layer_rule, or join the members with "
            "execution='loop'."
        ) from error


@layer_rule(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Identity, nn.Dropout)
def run_elementwise(layer: nn.Module, inputs: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
    """A layer that treats each number by itself; dropout is so too, and falls differently for each member."""
    # Inputs that all members share are one memory with a stride of 0, on which a layer cannot work in place.
    return layer(inputs.contiguous())


@layer_rule(nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
def run_linear(layer: nn.Linear, inputs: Float[Tensor, "member ... a"]) -> Float[Tensor, "member ... b"]:
    """One batched product for all members."""
    return _batched_linear(inputs, layer.weight, layer.bias)


@layer_rule(nn.LayerNorm)
def run_layer_norm(layer: nn.LayerNorm, inputs: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Normalize all members at once, then scale and shift each by its own."""
    normalized = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    return _scale_and_shift(normalized, layer.weight, layer.bias)


@layer_rule(nn.RMSNorm)
def run_rms_norm(layer: nn.RMSNorm, inputs: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Normalize all members at once, then scale each by its own."""
    return _scale_and_shift(F.rms_norm(inputs, layer.normalized_shape, eps=layer.eps), layer.weight, None)


@layer_rule(nn.Embedding)
def run_embedding(layer: nn.Embedding, inputs: Int[Tensor, "member ..."]) -> Float[Tensor, "member ... feature"]:
    """Look up in one table that holds the members' tables one below the other."""
    num_members, num_embeddings, _ = layer.weight.shape
    first_row = num_embeddings * torch.arange(num_members, device=inputs.device)
    vectors = F.embedding(inputs + _align(first_row, inputs), layer.weight.flatten(0, 1))
    if layer.padding_idx is None:
        return vectors
    # The vector of padding is used and not trained.
    return torch.where((inputs == layer.padding_idx).unsqueeze(-1), vectors.detach(), vectors)


@layer_rule(nn.Flatten)
def run_flatten(layer: nn.Flatten, inputs: Shaped[Tensor, "member ..."]) -> Shaped[Tensor, "member ..."]:
    """Axes counted from the front are one further back here."""
    first, last = (axis + 1 if axis >= 0 else axis for axis in (layer.start_dim, layer.end_dim))
    return inputs.flatten(first, last)


@layer_rule(nn.Sequential)
def run_sequential(layers: nn.Sequential, inputs: Shaped[Tensor, "member ..."]) -> Shaped[Tensor, "member ..."]:
    """One layer after the other."""
    for layer in layers:
        inputs = run_layer(layer, inputs)
    return inputs


@layer_rule(nn.TransformerEncoder)
def run_encoder(
    encoder: nn.TransformerEncoder, inputs: Float[Tensor, "member batch position hidden"]
) -> Float[Tensor, "member batch position hidden"]:
    """One layer after the other, and a norm at the end if there is one."""
    for layer in encoder.layers:
        inputs = run_layer(layer, inputs)
    return inputs if encoder.norm is None else run_layer(encoder.norm, inputs)


@layer_rule(nn.TransformerEncoderLayer)
def run_encoder_layer(
    layer: nn.TransformerEncoderLayer, inputs: Float[Tensor, "member batch position hidden"]
) -> Float[Tensor, "member batch position hidden"]:
    """Attention and feed-forward, each beside a residual connection."""

    def attend(states: Tensor) -> Tensor:
        return run_layer(layer.dropout1, run_layer(layer.self_attn, states))

    def feed_forward(states: Tensor) -> Tensor:
        hidden = run_layer(layer.linear1, states)
        activation = layer.activation
        hidden = run_layer(activation, hidden) if isinstance(activation, nn.Module) else activation(hidden)
        return run_layer(layer.dropout2, run_layer(layer.linear2, run_layer(layer.dropout, hidden)))

    if layer.norm_first:
        inputs = inputs + attend(run_layer(layer.norm1, inputs))
        return inputs + feed_forward(run_layer(layer.norm2, inputs))
    inputs = run_layer(layer.norm1, inputs + attend(inputs))
    return run_layer(layer.norm2, inputs + feed_forward(inputs))


@layer_rule(nn.MultiheadAttention)
def run_self_attention(
    attention: nn.MultiheadAttention, inputs: Float[Tensor, "member batch position hidden"]
) -> Float[Tensor, "member batch position hidden"]:
    """Self-attention with members folded into the batch, as heads are: each sees its own tokens only."""
    num_members, batch, length, width = inputs.shape
    projected = _batched_linear(inputs, attention.in_proj_weight, attention.in_proj_bias)
    heads = projected.view(num_members * batch, length, 3, attention.num_heads, attention.head_dim)
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (member x batch, head, position, feature)
    attended = _attend(query, key, value, attention.dropout if attention.training else 0.0)
    merged = attended.transpose(1, 2).reshape(num_members, batch, length, width)
    return run_layer(attention.out_proj, merged)


def _attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    if query.shape[2] > LONGEST_UNFUSED:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    return F.dropout(scores.softmax(dim=-1), dropout) @ value


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    """Whether it is self-attention over one projection, batch first, and nothing is added to keys and values."""
    adds = attention.bias_k is not None or attention.bias_v is not None or attention.add_zero_attn
    return attention.batch_first and attention._qkv_same_embed_dim and not adds


def _batched_linear(
    inputs: Float[Tensor, "member ... a"], weight: Float[Tensor, "member b a"], bias: Float[Tensor, "member b"] | None
) -> Float[Tensor, "member ... b"]:
    tensors = [inputs.flatten(1, -2), weight, bias]  # the first is (member, row, feature)
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        # Here, so that the gradients come back in the parameters' type.
        tensors = [tensor if tensor is None else tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]
    return _BatchedLinear.apply(*tensors).view(*inputs.shape[:-1], -1)


class _BatchedLinear(torch.autograd.Function):
    """``rows @ weight.T + bias`` of every member, whose gradient lies in memory as the weight does.

    PyTorch's own is that of the transposed weight, and it is copied to turn it, which for wide layers takes longer than
    the products.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        matrix = weight.transpose(1, 2)
        return torch.bmm(rows, matrix) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if wanted[0] else None,
            torch.bmm(gradient.transpose(1, 2), rows) if wanted[1] else None,
            gradient.sum(dim=1) if wanted[2] else None,
        )


def _scale_and_shift(inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None:
        return inputs
    if bias is None:
        return inputs * _align(weight, inputs)
    return torch.addcmul(_align(bias, inputs), inputs, _align(weight, inputs))


def _align(values: Tensor, inputs: Tensor) -> Tensor:
    """View ``(member, ...)`` so that it broadcasts over the axes that inputs have after the member's."""
    return values.view(len(values), *[1] * (inputs.dim() - values.dim()), *values.shape[1:])
