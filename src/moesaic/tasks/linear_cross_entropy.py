"""The loss of an output layer, worked out a few tokens at a time: no tensor of every token's every logit is made.

The logits of a batch are by far its largest tensor, and a plain cross-entropy makes three or four of that size: the
logits, their logarithms, and the gradients of both. Here a chunk of tokens is taken through the output layer, the
softmax and straight on to the gradients, in buffers that stay in the processor's cache and serve every chunk.

Reference for the idea of taking the gradients in the forward pass: Hsu et al. (2024), section 3.2,
https://arxiv.org/abs/2410.10989
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from moesaic.data import NOT_SCORED

CHUNK_LOGITS = 2**21
"""Logits in the buffer of a chunk on a CPU: 8 MB in float32, which its cache holds."""

CHUNK_LOGITS_ON_ACCELERATORS = 2**26
"""The same on a GPU, which needs larger pieces of work: 256 MB in float32."""

LEAST_TOKENS = 256
"""Tokens in a chunk, at least, however large the vocabulary: each chunk reads the whole weight and its gradient, which
with fewer tokens takes longer than multiplying."""


def linear_cross_entropy(
    hidden_states: Float[Tensor, "token hidden"],
    weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, " token"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the labels under a linear output layer, in nats per scored token.

    Equals PyTorch's ``cross_entropy`` of ``linear(hidden_states, weight, bias).float()`` up to rounding. Matrices are
    multiplied in autocast's type where it is on, the softmax is taken in float32 (in float64 of float64). Gradients
    are made in the forward pass, for those arguments alone that need one, and there is no second derivative.

    Args:
        hidden_states: What the output layer reads.
        weight: The output layer's matrix; it may be tied with the embedding.
        labels: The token that follows each position; ``NOT_SCORED`` where none is predicted.
        bias: The output layer's bias.
        label_smoothing: Share of every label that is spread evenly over the vocabulary; with it, the result is a
            cross-entropy and no likelihood (Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567).

    Returns:
        The mean; not a number where nothing is scored, as of PyTorch's own ``cross_entropy``.

    Example:
        >>> hidden_states, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0986, 5.0], [0.0, 5.0]])
        >>> linear_cross_entropy(hidden_states, weight, torch.tensor([0]))  # odds of 3 to 1: -log(3/4)
        tensor(0.2877)
    """
    device = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    arguments = (hidden_states, weight, bias)
    needed = [torch.is_grad_enabled() and argument is not None and argument.requires_grad for argument in arguments]
    return _LinearCrossEntropy.apply(*arguments, labels, dtype, _Needed(*needed), label_smoothing)


@dataclass(frozen=True)
class _Needed:
    """Which gradients are."""

    hidden_states: bool
    weight: bool
    bias: bool


class _LinearCrossEntropy(torch.autograd.Function):
    """The mean, whose forward pass leaves the gradients of the sum for the backward pass to scale."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        dtype: torch.dtype,
        needed: _Needed,
        label_smoothing: float,
    ) -> Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            chunks = _Chunks(hidden_states.to(dtype), weight.to(dtype), bias, labels, needed, label_smoothing)
            nats = chunks.sum_of_nats()
        num_scored = chunks.scored.sum()
        ctx.save_for_backward(chunks.grad_hidden, chunks.grad_weight, chunks.grad_bias, num_scored)
        ctx.dtypes = [None if argument is None else argument.dtype for argument in (hidden_states, weight, bias)]
        return nats / num_scored

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        *of_the_sum, num_scored = ctx.saved_tensors
        # Dividing by the number of scored tokens comes last: before, it would push float16 below its smallest number.
        scale = grad_output / num_scored
        # In float32, since a scale that was rounded itself would lengthen or shorten every gradient alike.
        gradients = [
            None if gradient is None else (gradient.to(scale.dtype) * scale).to(dtype)
            for gradient, dtype in zip(of_the_sum, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


class _Chunks:
    """The sum of all tokens' nats, and its gradients, chunk by chunk."""

    def __init__(
        self,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        needed: _Needed,
        label_smoothing: float,
    ) -> None:
        self.hidden_states, self.weight = hidden_states, weight
        self.scored = labels != NOT_SCORED
        self.all_scored = bool(self.scored.all())
        self.index = labels.where(self.scored, 0).unsqueeze(-1)
        self.softmax_type = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.bias = None if bias is None else bias.to(weight.dtype)
        self.grad_hidden = torch.empty_like(hidden_states) if needed.hidden_states else None
        # Sums over chunks: of many small numbers, hence not in bfloat16.
        self.grad_weight = torch.zeros_like(weight, dtype=self.softmax_type) if needed.weight else None
        self.grad_bias = weight.new_zeros(len(weight), dtype=self.softmax_type) if needed.bias else None
        self.share_of_all = label_smoothing / len(weight)  # of each word, the label included
        self.share_of_label = 1 - label_smoothing
        self.minus_label = weight.new_full((), -self.share_of_label, dtype=self.softmax_type)
        self.needs_gradients = needed.hidden_states or needed.weight or needed.bias

    def sum_of_nats(self) -> Tensor:
        """Go through all tokens."""
        num_tokens, size = len(self.index), self._tokens_in_chunk()
        logits = self.weight.new_empty(size, len(self.weight))
        same_type = logits.dtype == self.softmax_type
        probabilities = logits if same_type else torch.empty_like(logits, dtype=self.softmax_type)
        nats = self.weight.new_zeros((), dtype=self.softmax_type)
        for start in range(0, num_tokens, size):
            rows = slice(start, min(start + size, num_tokens))
            count = rows.stop - rows.start
            nats += self._chunk(rows, logits[:count], probabilities[:count])
        return nats

    def _tokens_in_chunk(self) -> int:
        room = CHUNK_LOGITS if self.weight.device.type == "cpu" else CHUNK_LOGITS_ON_ACCELERATORS
        return min(max(LEAST_TOKENS, room // len(self.weight)), max(1, len(self.index)))

    def _chunk(self, rows: slice, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Add a chunk to the gradients; returns the sum of its nats."""
        index = self.index[rows]
        if self.bias is None:
            torch.mm(self.hidden_states[rows], self.weight.t(), out=logits)
        else:
            torch.addmm(self.bias, self.hidden_states[rows], self.weight.t(), out=logits)
        if probabilities is not logits:
            probabilities.copy_(logits)
        largest, chosen = probabilities.amax(dim=-1), probabilities.gather(-1, index).squeeze(-1)
        if self.share_of_all:
            chosen = self.share_of_label * chosen + self.share_of_all * probabilities.sum(dim=-1)
        torch.softmax(probabilities, dim=-1, out=probabilities)
        # The largest logit's probability is at least 1 / vocab, and its logarithm exact where the label's may not be.
        log_sum_exp = largest - probabilities.amax(dim=-1).log()
        nats = (log_sum_exp - chosen).masked_fill_(~self.scored[rows], 0)
        if self.needs_gradients:
            # The gradient of a token's nats with respect to its logits: the probabilities, less what the label says.
            gradient = probabilities.scatter_add_(-1, index, self.minus_label.expand(index.shape))
            if self.share_of_all:
                gradient -= self.share_of_all
            if not self.all_scored:
                gradient.masked_fill_(~self.scored[rows].unsqueeze(-1), 0)
            self._add(rows, gradient if gradient is logits else logits.copy_(gradient), gradient)
        return nats.sum()

    def _add(self, rows: slice, gradient: Tensor, precise: Tensor) -> None:
        """Add a chunk to the gradients; ``gradient`` and ``precise`` are the same in two types."""
        if self.grad_hidden is not None:
            torch.mm(gradient, self.weight, out=self.grad_hidden[rows])
        if self.grad_weight is not None and gradient.dtype == self.grad_weight.dtype:
            self.grad_weight.addmm_(gradient.t(), self.hidden_states[rows])
        elif self.grad_weight is not None:
            self.grad_weight += gradient.t() @ self.hidden_states[rows]
        if self.grad_bias is not None:
            self.grad_bias += precise.sum(dim=0)
