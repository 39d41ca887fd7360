"""Where does the time of one decoding step go, in Transformers' model and with moesaic's kernels?

    python -m benchmarks.decoding_profile

The model of `benchmarks.decoding` with random weights in bfloat16, two threads. Each module's forward is timed from
outside, so what Python and PyTorch need between operations counts to the module in which it happens; the rest of a
step is what `generate` and the layers do around them. Milliseconds a token: the median over tokens, the mean of two
runs; both ways take turns.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from benchmarks.decoding import SIZES, THREADS
from benchmarks.record import save
from moesaic.experts import IMPLEMENTATION, fast_decoding

NEW_TOKENS, PROMPT_TOKENS = 64, 16
PARTS = {"experts": "mlp.experts", "router": "mlp.gate", "projections": "_proj", "norms": "norm", "head": "lm_head"}
"""Parts of a step, and how the names of their modules end."""


class Watch:
    """Adds up the seconds of each part of a step, and begins anew at each token."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.began = time.perf_counter()
        self.parts: dict[str, float] = defaultdict(float)

    def put(self, _tokens: Any) -> None:
        now = time.perf_counter()
        self.steps.append({**self.parts, "whole step": now - self.began})
        self.began, self.parts = now, defaultdict(float)

    def end(self) -> None:
        """What `generate` calls at the end of a text."""

    def time(self, part: str, module: nn.Module) -> None:
        forward = type(module).forward

        def timed(*arguments: Any, **more: Any) -> Any:
            started = time.perf_counter()
            result = forward(module, *arguments, **more)
            self.parts[part] += time.perf_counter() - started
            return result

        module.forward = timed


def milliseconds(network: Any, watch: Watch) -> dict[str, float]:
    """Median milliseconds of each part over the tokens of a text."""
    prompt = torch.arange(PROMPT_TOKENS)[None]
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    network.generate(prompt, **options)
    watch.steps.clear()
    network.generate(prompt, streamer=watch, **options)
    steps = watch.steps[2:]  # the prompt, and the first token
    return {part: statistics.median(step[part] for step in steps) * 1000 for part in (*PARTS, "whole step")}


def profile(way: str) -> dict[str, float]:
    torch.manual_seed(0)
    network = MixtralForCausalLM(MixtralConfig(**SIZES)).to(torch.bfloat16).eval()
    network.set_experts_implementation(IMPLEMENTATION if way == "moesaic" else "eager")
    watch = Watch()
    with ExitStack() as stack:
        if way == "moesaic":
            stack.enter_context(fast_decoding(network))
        for name, module in network.named_modules():
            for part, ending in PARTS.items():
                if name.endswith(ending):
                    watch.time(part, module)
        return milliseconds(network, watch)


def main() -> None:
    torch.set_num_threads(THREADS)
    ways = ["Transformers, eager", "moesaic", "moesaic", "Transformers, eager"]
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for way in ways:
        found[way].append(profile(way))
    rows = []
    for way, runs in found.items():
        mean = {part: statistics.mean(run[part] for run in runs) for part in runs[0]}
        rest = mean["whole step"] - sum(mean[part] for part in PARTS)
        rows.append(
            {"way": way, **{part: mean[part] for part in PARTS}, "rest": rest, "whole step": mean["whole step"]}
        )
    save("decoding_profile", rows, sizes=SIZES, threads=THREADS, seed=0)


if __name__ == "__main__":
    main()
