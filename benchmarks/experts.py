"""How fast is an experts layer, compared with a dense layer of equal active FLOPs and with Transformers' kernels?

    python -m benchmarks.experts            # everything, about 15 minutes
    python -m benchmarks.experts few_rows   # one part: many_rows, few_rows, skew or training

All arms of a row have the same weights and choices, in a process of their own for each shape, and take turns, forwards
and then backwards through the list; before that their outputs are compared with Transformers' eager experts in float32.
Figures are medians over rounds. Every process keeps freed memory for reuse (`moesaic.training.keep_memory_warm`), for
all arms alike.

`many_rows`: speed as a share of the dense layer's (a SwiGLU as wide as the experts that are active), and as a multiple
of the best of Transformers' kernels. Eager experts with more than 16 experts are only timed forward: their backward
makes a gradient of all experts' size for each expert.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

import moesaic.experts
from benchmarks.record import save
from moesaic.experts import train_only
from moesaic.training import keep_memory_warm

WARMUP, ROUNDS = 3, 5
THREADS = 2
# tokens, hidden size, expert size, experts, top-k
SHAPES = [
    (4096, 256, 256, 16, 4),
    (4096, 512, 512, 16, 2),
    (2048, 1024, 512, 64, 8),
    (1024, 2048, 1024, 64, 8),
    (512, 512, 1408, 4, 1),
    (256, 2048, 5632, 8, 2),
    (1024, 2048, 768, 128, 8),
]
FEW_ROWS = [
    (1, 256, 256, 16, 4),
    (16, 256, 256, 16, 4),
    (1, 512, 512, 16, 2),
    (32, 512, 512, 16, 2),
    (1, 1024, 512, 64, 8),
    (32, 1024, 512, 64, 8),
    (1, 2048, 1024, 64, 8),
    (32, 2048, 1024, 64, 8),
    (16, 512, 1408, 4, 1),
    (1, 768, 2048, 8, 2),
    (16, 768, 2048, 8, 2),
    (1, 2048, 5632, 8, 2),
    (16, 2048, 5632, 8, 2),
    (1, 2048, 768, 128, 8),
    (64, 2048, 768, 128, 8),
]
SKEWED = [(4096, 512, 512, 16, 2), (1024, 2048, 1024, 64, 8)]
MODEL_BYTES = 128 << 20
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

Shape = tuple[int, int, int, int, int]


class Layer:
    """One experts layer, its input and routing, and the dense layer of equal active FLOPs."""

    def __init__(self, shape: Shape, dtype: torch.dtype, routing: str = "uniform") -> None:
        num_tokens, hidden, half, num_experts, top_k = shape
        torch.manual_seed(0)
        config = MixtralConfig(hidden_size=hidden, intermediate_size=half, num_local_experts=num_experts)
        self.experts: Any = MixtralExperts(config).to(dtype)
        for parameter in self.experts.parameters():
            nn.init.normal_(parameter, std=0.02)
        self.states = torch.randn(num_tokens, hidden).to(dtype).requires_grad_()
        self.index, weights = choose(routing, num_tokens, num_experts, top_k)
        self.weights = weights.to(dtype).requires_grad_()
        self.gate_up = nn.Parameter(torch.randn(2 * half * top_k, hidden).to(dtype) * 0.02)
        self.down = nn.Parameter(torch.randn(hidden, half * top_k).to(dtype) * 0.02)
        self.gradient = torch.randn(num_tokens, hidden).to(dtype)

    def run(self, arm: str) -> Tensor:
        if arm == "dense":
            gate, up = F.linear(self.states, self.gate_up).chunk(2, dim=-1)
            return F.linear(F.silu(gate) * up, self.down)
        self.experts.config._experts_implementation = arm
        return self.experts(self.states, self.index, self.weights)

    def forward(self, arm: str) -> None:
        with torch.no_grad():
            self.run(arm)

    def forward_and_backward(self, arm: str) -> None:
        self.run(arm).backward(self.gradient)

    def forget_gradients(self) -> None:
        for tensor in (self.states, self.weights, self.gate_up, self.down, *self.experts.parameters()):
            tensor.grad = None

    def check(self, arms: list[str], dtype: torch.dtype) -> None:
        """Compare every arm's output with eager experts in float32."""
        with torch.no_grad():
            outputs = {arm: self.run(arm).float() for arm in arms if arm != "dense"}
            low, self.states = self.states, self.states.float()
            self.experts.float()
            expected = self.run("eager")
            self.states = low
            self.experts.to(dtype)
        for arm, output in outputs.items():
            error = ((output - expected).norm() / expected.norm()).item()
            if error > TOLERANCE[dtype]:
                raise SystemExit(f"{arm} differs from eager experts in float32 by {error:.1e}.")


def choose(routing: str, num_tokens: int, num_experts: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Experts of each token and their weights: all as popular, the n-th 1/n as popular, or one that all tokens take."""
    scores = torch.randn(num_tokens, num_experts)
    if routing == "zipf":
        # The largest of log-weights plus Gumbel noise are draws without replacement.
        gumbel = -torch.empty(num_tokens, num_experts).exponential_().log()
        scores = gumbel - torch.arange(1, num_experts + 1).log()
    weights, index = scores.softmax(dim=-1).topk(top_k, dim=-1)
    if routing == "one expert":
        index = torch.zeros_like(index)
    return index, weights / weights.sum(dim=-1, keepdim=True)


def take_turns(layer: Layer, arms: list[str], work: Callable[[str], None]) -> dict[str, float]:
    """Median seconds of each arm."""
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(WARMUP + ROUNDS):
        for arm in arms if turn % 2 else reversed(arms):
            layer.forget_gradients()
            started = time.perf_counter()
            work(arm)
            if turn >= WARMUP:
                seconds[arm].append(time.perf_counter() - started)
    return {arm: statistics.median(values) for arm, values in seconds.items()}


def prepare() -> None:
    keep_memory_warm()
    torch.set_num_threads(THREADS)
    assert moesaic.experts.is_available(), (
        "build the native kernels first: install moesaic where there is a C++ compiler"
    )


def many_rows(shape: Shape, dtype: torch.dtype, routing: str = "uniform") -> dict[str, Any]:
    prepare()
    layer = Layer(shape, dtype, routing)
    arms = ["dense", "moesaic", "grouped_mm", "eager"]
    layer.check(arms, dtype)
    forward = take_turns(layer, arms, layer.forward)
    if shape[3] > 16:
        arms = arms[:-1]
    both = take_turns(layer, arms, layer.forward_and_backward)
    return {
        **describe(shape, dtype),
        "routing": routing,
        "dense GFLOP/s": round(6 * shape[0] * shape[4] * shape[1] * shape[2] / forward["dense"] / 1e9),
        "forward, of dense": forward["dense"] / forward["moesaic"],
        "of best other": best_other(forward) / forward["moesaic"],
        "forward+backward, of dense": both["dense"] / both["moesaic"],
        "of best other, f+b": best_other(both) / both["moesaic"],
    }


def few_rows(shape: Shape) -> dict[str, Any]:
    """One call after the other through the layers of a model that no cache holds, as in decoding."""
    prepare()
    _, hidden, half, num_experts, _ = shape
    num_layers = max(1, min(16, MODEL_BYTES // (num_experts * 6 * hidden * half)))
    layers = [Layer(shape, torch.bfloat16) for _ in range(num_layers)]
    arms = ["moesaic", "grouped_mm", "eager"]
    layer = layers[0]
    if layer.index.numel() * hidden * half * 6 < 1e9:  # batched_mm copies the weights of every choice
        arms.append("batched_mm")
    layer.check(arms, torch.bfloat16)

    def forward(arm: str) -> None:
        for each in layers:
            each.forward(arm)

    seconds = {arm: value / num_layers for arm, value in take_turns(layer, arms, forward).items()}
    num_used = len(layer.index.unique())
    return {
        **describe(shape, torch.bfloat16),
        "rows of an expert": round(layer.index.numel() / num_used, 1),
        "microseconds": round(seconds["moesaic"] * 1e6),
        "weights read, GB/s": round(num_used * 6 * hidden * half / seconds["moesaic"] / 1e9, 1),
        "times grouped_mm": seconds["grouped_mm"] / seconds["moesaic"],
        "times the best other": best_other(seconds) / seconds["moesaic"],
    }


def training(shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    """Memory kept for the backward pass; and one trained expert against grouped_mm with all gradients."""
    prepare()
    layer = Layer(shape, dtype)
    kept = {arm: kept_bytes(layer, arm) for arm in ("moesaic", "grouped_mm")}
    seconds = take_turns(layer, ["moesaic", "grouped_mm"], layer.forward_and_backward)
    experts = layer.experts
    # One expert trained, with moesaic; and with grouped_mm, which cannot leave out the others.
    with train_only(nn.ModuleList([experts]), [0]):
        one = take_turns(layer, ["moesaic"], layer.forward_and_backward)["moesaic"]
    experts.requires_grad_(False)
    router_only = take_turns(layer, ["moesaic"], layer.forward_and_backward)["moesaic"]
    return {
        **describe(shape, dtype),
        "kept for backward, of grouped_mm": kept["moesaic"] / kept["grouped_mm"],
        "one expert trained, times grouped_mm": seconds["grouped_mm"] / one,
        "experts frozen, times grouped_mm": seconds["grouped_mm"] / router_only,
        "all trained, times grouped_mm": seconds["grouped_mm"] / seconds["moesaic"],
    }


def kept_bytes(layer: Layer, arm: str) -> int:
    """Bytes that autograd keeps between forward and backward, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in layer.experts.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer.run(arm)
    total = sum(kept.values())
    output.backward(layer.gradient)
    return total


def best_other(seconds: Mapping[str, float]) -> float:
    return min(value for arm, value in seconds.items() if arm not in ("dense", "moesaic"))


def describe(shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "tokens, hidden, size, experts, top-k": ", ".join(map(str, shape)),
        "type": str(dtype).removeprefix("torch."),
    }


BOTH = (torch.float32, torch.bfloat16)
PARTS: dict[str, tuple[Callable[..., dict[str, Any]], list[tuple[Any, ...]]]] = {
    "many_rows": (many_rows, [(shape, dtype) for dtype in BOTH for shape in SHAPES]),
    "few_rows": (few_rows, [(shape,) for shape in FEW_ROWS]),
    "skew": (many_rows, [(s, d, r) for d in BOTH for s in SKEWED for r in ("zipf", "one expert")]),
    "training": (training, [((4096, 512, 512, 8, 2), dtype) for dtype in BOTH]),
}


def main() -> None:
    facts = {
        "rounds": ROUNDS,
        "warm-up rounds": WARMUP,
        "threads": THREADS,
        "seed": 0,
        "instructions": moesaic.experts.instruction_set().name,
    }
    for part in sys.argv[1:] or PARTS:
        measure, cases = PARTS[part]
        rows = []
        for case in cases:
            # A process of its own, so that no shape finds the memory that another left.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, case))
        save(f"experts_{part}", rows, command=f"experts {part}", **facts)


if __name__ == "__main__":
    main()
