"""Do four members that answer as one write at least 0.9 times a quarter as fast as one of them alone?

    python -m benchmarks.ensemble_generation
    python -m benchmarks.ensemble_generation --sparse

A mixture of four members runs four networks at each step, so a quarter of one member's speed is what it can have at
best if nothing is shared; what sharing the loop of ``generate`` saves may pay for combining and for four caches.

With ``--sparse`` the mixture is a sparse posterior, which keeps one or two members after the prompt: does a token of it
cost at most 1.15 times one member's? The prompt, which all four read, is part of the time.

One member and the mixtures decode greedily with ``generate``, from the same random prompts, and never stop early. The
arms of a row take turns, call by call, forwards and then backwards through the list; a figure is the median over calls.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.record import save
from moesaic.combiners import Average, Combiner, Posterior, SparsePosterior
from moesaic.members import CausalLM
from moesaic.mixture import Mixture

NUM_MEMBERS = 4
PROMPT_TOKENS, NEW_TOKENS = 32, 64
CALLS = 12
SIZES = {
    "hidden 64, 2 layers, 1k words": {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "hidden 512, 8 layers, 8k words": {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
}
COMBINERS: dict[str, Callable[[], Combiner]] = {
    "average": Average,
    "average of logits": lambda: Average("logit"),
    "posterior": Posterior,
}
SPARSE: dict[str, Callable[[], Combiner]] = {
    f"posterior, {keep} kept": partial(SparsePosterior, keep, PROMPT_TOKENS) for keep in (1, 2)
}


def member(seed: int, sizes: dict[str, Any]) -> CausalLM:
    torch.manual_seed(seed)
    return CausalLM(f"member-{seed}", LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=2048)).eval())


def seconds(network: Any, tokens: torch.Tensor) -> float:
    started = time.perf_counter()
    written = network.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    taken = time.perf_counter() - started
    assert written.shape[1] == PROMPT_TOKENS + NEW_TOKENS
    return taken


def measure(networks: dict[str, Any], tokens: torch.Tensor, calls: int) -> dict[str, float]:
    """Tokens per second of each network, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    order = list(networks)
    for name in order:
        seconds(networks[name], tokens)  # Not counted: the first call makes what later ones reuse.
    for _ in range(calls):
        for name in order:
            times[name].append(seconds(networks[name], tokens))
        order.reverse()
    return {name: len(tokens) * NEW_TOKENS / statistics.median(taken) for name, taken in times.items()}


def rows_of_size(
    size: str, batch_size: int, calls: int, combiners: dict[str, Callable[[], Combiner]]
) -> list[dict[str, Any]]:
    members = [member(seed, SIZES[size]) for seed in range(NUM_MEMBERS)]
    networks: dict[str, Any] = {"one": members[0].network}
    networks |= {name: Mixture(members, make()).eval() for name, make in combiners.items()}
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, SIZES[size]["vocab_size"], (batch_size, PROMPT_TOKENS), generator=generator)
    speeds = measure(networks, tokens, calls)
    return [
        {
            "member": size,
            "combiner": name,
            "batch": batch_size,
            "tokens/s, one": speeds["one"],
            "tokens/s, four": speeds[name],
            "share of a quarter": speeds[name] / (speeds["one"] / NUM_MEMBERS),
            "cost of one member's token": speeds["one"] / speeds[name],
        }
        for name in combiners
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS, help="calls of each arm")
    parser.add_argument("--sparse", action="store_true", help="measure sparse posteriors")
    arguments = parser.parse_args()
    calls, combiners = arguments.calls, SPARSE if arguments.sparse else COMBINERS
    rows = [row for size in SIZES for batch_size in (1, 8) for row in rows_of_size(size, batch_size, calls, combiners)]
    save(
        "sparse_generation" if arguments.sparse else "ensemble_generation",
        rows,
        command="ensemble_generation" + (" --sparse" if arguments.sparse else ""),
        sizes=SIZES,
        num_members=NUM_MEMBERS,
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=NEW_TOKENS,
        calls=calls,
        threads=torch.get_num_threads(),
        seed=0,
    )


if __name__ == "__main__":
    main()
