"""Which attention and which experts' kernel trains faster on this machine, at the sizes of small experiments?

    python -m benchmarks.kernels

Behind ``EAGER_ATTENTION_POSITIONS`` and ``EAGER_EXPERTS`` in ``moesaic/members/causal_lm.py``. Each figure is the time
of a training step with one kernel over that with the other, both in the same run, taking turns; the median over steps,
and the lowest and the highest ratio of three rounds.
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


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for positions in (128, 256, 512, 1024):
        config = LlamaConfig(**SIZES, max_position_embeddings=2048)
        networks = [AutoModelForCausalLM.from_config(config, attn_implementation=name) for name in ("eager", "sdpa")]
        rows.append(
            row(f"eager / fused attention, {positions} positions", compare(networks[0], networks[1], positions))
        )
    for num_experts in (4, 8, 16, 32):
        networks = []
        for name in ("eager", "grouped_mm"):
            network = AutoModelForCausalLM.from_config(MixtralConfig(**SIZES, num_local_experts=num_experts))
            network.set_attn_implementation("eager")
            network.set_experts_implementation(name)
            networks.append(network)
        rows.append(row(f"eager / grouped experts, {num_experts} experts", compare(networks[0], networks[1], 128)))
    save("kernels", rows, sizes=SIZES, tokens_per_step=TOKENS, steps=STEPS, rounds=ROUNDS, seed=0)


if __name__ == "__main__":
    main()
