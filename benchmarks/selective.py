"""What does it cost to combine experts only at the tokens of which the first of them is not sure?

    moesaic run recipes/quickstart.yaml
    python -m benchmarks.selective

Takes the experts of a finished run. A router over whole experts is fitted on the validation documents; it ranks an
expert first at every token. *One expert* is that one alone, *all* is the router's mixture at every token, and a
selective combiner answers with the first expert where it is sure and with the mixture elsewhere; its threshold is
calibrated on the validation documents for a share of the tokens.

Losses are in nats per token, mean over domains, on all of each test document; the share of tokens is that on the same
text. Times are those of a token that ``generate`` writes after a prompt from the test documents, greedily and never
stopping early, for one text at once and for eight; a batch combines as soon as one of its texts wants it. The arms
take turns, call by call, forwards and then backwards through the list; a figure is the median over calls.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.record import save
from moesaic.arena import Bootstrap, measure
from moesaic.combiners import Combiner, Routed, Selective
from moesaic.data import NOT_SCORED, EvaluationBlocks
from moesaic.mixture import Mixture
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.load import load_recipe
from moesaic.recipe.work import Work
from moesaic.training import HeldOut, calibrate_selective, collect_held_out, fit_combiner, join_held_out

SHARES = (0.1, 0.25, 0.5)
PROMPT_TOKENS, BATCH_SIZES = 32, (1, 8)


def fit_router(held_out: Mapping[str, HeldOut], num_steps: int) -> Routed:
    router = Routed()
    fit_combiner(router, join_held_out(list(held_out.values())), num_steps=num_steps)
    return router


def make_combiners(router: Routed, held_out: Mapping[str, HeldOut]) -> dict[str, Combiner]:
    """The ways to combine, by what the table calls them."""
    never, always = (Selective(router, threshold, main=None) for threshold in (float("-inf"), float("inf")))
    combiners: dict[str, Combiner] = {"one expert, the router's first": never}
    for share in SHARES:
        found = calibrate_selective(router, held_out, main=None, max_share=share)
        combiners[f"selective, at most {share:.0%}"] = Selective(router, found.threshold, main=None)
    return combiners | {"all, asked in turn": always, "all": router}


@torch.no_grad()
def share_combined(mixture: Mixture, blocks: Mapping[str, EvaluationBlocks], batch_size: int) -> float:
    """Share of the tokens at which more than one expert has a say, the mean over domains."""
    shares = []
    for documents in blocks.values():
        parts = zip(documents.input_ids.split(batch_size), documents.labels.split(batch_size), strict=True)
        used = [mixture(inputs).routing.num_used[labels != NOT_SCORED] for inputs, labels in parts]
        shares.append(float((torch.cat(used) > 1).float().mean()))
    return statistics.mean(shares)


def seconds_per_token(network: Any, prompts: torch.Tensor, num_tokens: int) -> float:
    started = time.perf_counter()
    network.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return (time.perf_counter() - started) / num_tokens / len(prompts)


def time_tokens(networks: Mapping[str, Any], prompts: torch.Tensor, num_tokens: int, calls: int) -> dict[str, float]:
    """Milliseconds per token of each network, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    order = list(networks)
    for name in order:
        seconds_per_token(networks[name], prompts, num_tokens)  # Not counted: it makes what later ones reuse.
    for _ in range(calls):
        for name in order:
            times[name].append(1000 * seconds_per_token(networks[name], prompts, num_tokens))
        order.reverse()
    return {name: statistics.median(taken) for name, taken in times.items()}


def take_prompts(blocks: Mapping[str, EvaluationBlocks], batch_size: int) -> torch.Tensor:
    """Beginnings of test documents, of all domains in turn."""
    num_each = -(-batch_size // len(blocks))
    beginnings = torch.stack([documents.input_ids[:num_each, :PROMPT_TOKENS] for documents in blocks.values()], dim=1)
    return beginnings.flatten(0, 1)[:batch_size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="a finished run of the recipe")
    parser.add_argument("--calls", type=int, default=12, help="timed calls of each arm")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens written in a call")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of the router")
    arguments = parser.parse_args()
    work = Work(load_recipe(arguments.recipe), RunFolder(arguments.run), Console(file=io.StringIO()))
    blocks, batch_size = work.test_blocks(), work.recipe.arena.batch_size
    held_out = collect_held_out([expert.network for expert in work.experts], work.validation_blocks())
    combiners = make_combiners(fit_router(held_out, arguments.steps), held_out)
    mixtures = {name: Mixture(work.experts, combiner).eval() for name, combiner in combiners.items()}
    networks = {"alone": work.experts[0].network.eval()} | mixtures
    milliseconds = {
        size: time_tokens(networks, take_prompts(blocks, size), arguments.new_tokens, arguments.calls)
        for size in BATCH_SIZES
    }
    bootstrap, domains = Bootstrap(), list(blocks)
    table = []
    for name, mixture in mixtures.items():
        scores = measure(mixture, blocks, batch_size=batch_size, name=name).scores
        row: dict[str, Any] = {
            "way": name,
            "loss (95% interval)": str(bootstrap.interval(scores, "nats_per_token", domains)),
            "combined at, % of tokens": 100 * share_combined(mixture, blocks, batch_size),
        }
        for size, of_size in milliseconds.items():
            row[f"ms a token, batch {size}"] = of_size[name]
            row[f"times one expert's, batch {size}"] = of_size[name] / of_size["alone"]
        table.append(row)
    save(
        "selective",
        table,
        command="selective",
        recipe=arguments.recipe.read_text(encoding="utf-8"),
        thresholds={name: str(getattr(combiner, "threshold", "")) for name, combiner in combiners.items()},
        milliseconds_of_one_expert={size: of_size["alone"] for size, of_size in milliseconds.items()},
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=arguments.new_tokens,
        calls=arguments.calls,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
