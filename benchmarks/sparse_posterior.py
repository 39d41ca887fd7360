"""How near does a posterior that keeps one or two members come to the oracle that knows the domain?

    moesaic run recipes/quickstart.yaml
    python -m benchmarks.sparse_posterior

Takes the experts and test documents of a finished run. The oracle reads each document with its domain's own expert; the
posterior with all of them; a sparse one with all of them for the first tokens, then with those that predicted these
best. Losses are in nats per token, mean over domains, on all of each document.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from rich.console import Console

from benchmarks.record import save
from moesaic.arena import Bootstrap, measure
from moesaic.combiners import Combiner, Posterior, SparsePosterior
from moesaic.mixture import Mixture
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.load import load_recipe
from moesaic.recipe.work import Work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="A finished run of the recipe.")
    arguments = parser.parse_args()
    work = Work(load_recipe(arguments.recipe), RunFolder(arguments.run), Console(file=io.StringIO()))
    blocks, batch_size = work.test_blocks(), work.recipe.arena.batch_size
    domains = list(blocks)
    experts = [measure(expert.network, blocks, batch_size=batch_size, name=expert.name) for expert in work.experts]
    # The oracle asks each domain's own expert.
    scores = {"oracle": {domain: experts[index].scores[domain] for index, domain in enumerate(domains)}}
    combiners: dict[str, Combiner] = {"posterior": Posterior()}
    for keep in (1, 2):
        combiners |= {f"{keep} kept after {after} tokens": SparsePosterior(keep, after) for after in (16, 32, 64)}
    for name, combiner in combiners.items():
        mixture = Mixture(work.experts, combiner).eval()
        scores[name] = measure(mixture, blocks, batch_size=batch_size, name=name).scores
    bootstrap = Bootstrap()
    intervals = {name: bootstrap.interval(given, "nats_per_token", domains) for name, given in scores.items()}
    oracle = intervals["oracle"].value
    table = [
        {"way": name, "loss (95% interval)": str(interval), "above the oracle, %": 100 * (interval.value / oracle - 1)}
        for name, interval in intervals.items()
    ]
    save("sparse_posterior", table, command="sparse_posterior", recipe=arguments.recipe.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
