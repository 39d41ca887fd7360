"""Do Transformers' own choices of kernels cost small models time on a CPU?

    python -m benchmarks.kernels

Each figure is the time of a training step with the plain kernel over that with the one that Transformers chooses
(fused attention, grouped experts), both in the same run, taking turns: the median over steps, the median of three
rounds, and the lowest and the highest round. Above 1, Transformers' choice is the faster one; moesaic leaves it so.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from benchmarks.record import save

SIZES = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
TOKENS = 4096
STEPS, ROUNDS = 10, 3


def step_seconds(network: Any, positions: int) -> float:
    tokens = torch.randint(SIZES["vocab_size"], (TOKENS // positions, positions))
    started = time.perf_counter()
    network(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    seconds = time.perf_counter() - started
    network.zero_grad()
    return seconds


def compare(first: Any, second: Any, positions: int) -> list[float]:
    """Ratios of the first network's time to the second's, one a round."""
    for network in (first, second):
        step_seconds(network, positions)
    ratios = []
    for _ in range(ROUNDS):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(STEPS):
            for network, seconds in zip((first, second), times, strict=True):
                seconds.append(step_seconds(network, positions))
        ratios.append(statistics.median(times[0]) / statistics.median(times[1]))
    return ratios


def row(what: str, ratios: list[float]) -> dict[str, Any]:
    return {"compared": what, "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def dense(attention: str) -> Any:
    # A configuration of its own: networks that share one share its attention too.
    config = LlamaConfig(**SIZES, max_position_embeddings=2048)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def sparse(kernel: str, num_experts: int) -> Any:
    network = AutoModelForCausalLM.from_config(MixtralConfig(**SIZES, num_local_experts=num_experts))
    network.set_attn_implementation("eager")
    network.set_experts_implementation(kernel)
    return network


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for positions in (128, 256, 512, 1024):
        eager, fused = (dense(attention) for attention in ("eager", "sdpa"))
        rows.append(row(f"eager / fused attention, {positions} positions", compare(eager, fused, positions)))
    for num_experts in (4, 8, 16, 32):
        eager, grouped = (sparse(kernel, num_experts) for kernel in ("eager", "grouped_mm"))
        rows.append(row(f"eager / grouped experts, {num_experts} experts", compare(eager, grouped, 128)))
    save("kernels", rows, sizes=SIZES, tokens_per_step=TOKENS, steps=STEPS, rounds=ROUNDS, seed=0)


if __name__ == "__main__":
    main()
