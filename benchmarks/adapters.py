"""Do members that are adapters of one backbone cost less than members with weights of their own?

    python -m benchmarks.adapters

The same mixture twice: N adapters on one backbone, which one call reads for all of them; and their merged models, N
networks with all weights of their own, which are run one after the other. Both give the same tokens.

A mixture writes from one prompt, and reads a batch. Arms take turns, call by call, forwards and then backwards; a
figure is the median over calls. Where little text is read at a time, reading the weights takes most of it, and the
backbone's are read once: what remains of N is the adapters'. A large batch has as much arithmetic either way.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.record import save
from moesaic.arena import total_parameters
from moesaic.combiners import Average
from moesaic.members import CausalLM, adapter_members, add_adapter, merge_adapter
from moesaic.mixture import Mixture

RANK = 8
PROMPT_TOKENS, NEW_TOKENS = 32, 32
BATCH, READ_TOKENS = 8, 128
COUNTS = (1, 2, 4, 8)
SIZES: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 1024,
}


def backbone_with_adapters(count: int) -> PreTrainedModel:
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    for number in range(count):
        add_adapter(network, f"adapter-{number}", rank=RANK, seed=number)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if ".lora_B." in name:
                tensor.normal_(std=0.02)
    return network


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turns(arms: dict[str, Callable[[], Any]], calls: int) -> dict[str, float]:
    """Median seconds of each arm."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for name in order:
        arms[name]()  # Not counted: the first call makes what later ones reuse.
    for _ in range(calls):
        for name in order:
            times[name].append(seconds(arms[name]))
        order.reverse()
    return {name: statistics.median(taken) for name, taken in times.items()}


def write(mixture: Mixture) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(1, SIZES["vocab_size"], (1, PROMPT_TOKENS), generator=generator)
    return mixture.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )


@torch.no_grad()
def read(mixture: Mixture) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return mixture(torch.randint(1, SIZES["vocab_size"], (BATCH, READ_TOKENS), generator=generator)).logits


def row(count: int, calls: int) -> dict[str, Any]:
    backbone = CausalLM("backbone", backbone_with_adapters(count))
    shared = Mixture(adapter_members(backbone), Average()).eval()
    merged = [CausalLM(name, merge_adapter(backbone.network, name)) for name in shared.member_names]
    apart = Mixture(merged, Average()).eval()
    torch.testing.assert_close(read(shared), read(apart), rtol=1e-3, atol=1e-3)
    writing = in_turns({"shared": lambda: write(shared), "apart": lambda: write(apart)}, calls)
    reading = in_turns({"shared": lambda: read(shared), "apart": lambda: read(apart)}, calls)
    return {
        "adapters": count,
        "million parameters, shared": total_parameters(shared) / 1e6,
        "million parameters, apart": total_parameters(apart) / 1e6,
        "ms per token written, shared": 1000 * writing["shared"] / NEW_TOKENS,
        "ms per token written, apart": 1000 * writing["apart"] / NEW_TOKENS,
        "ms per batch read, shared": 1000 * reading["shared"],
        "ms per batch read, apart": 1000 * reading["apart"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=9, help="Calls of each arm that are counted.")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="Numbers of adapters.")
    arguments = parser.parse_args()
    rows = [row(count, arguments.calls) for count in arguments.counts]
    save("adapters", rows, sizes=SIZES, rank=RANK, batch=BATCH, read_tokens=READ_TOKENS, calls=arguments.calls)


if __name__ == "__main__":
    main()
