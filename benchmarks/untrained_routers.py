"""How good is a mixture whose router was never trained: ours against ``mergekit-moe``'s hidden-state gates?

    python -m benchmarks.untrained_routers --mergekit MERGEKIT
    python -m benchmarks.untrained_routers --mergekit MERGEKIT --sets quickstart

MERGEKIT is a virtual environment with mergekit 0.1.5. Three sets of experts: the quickstart's four; four of the same
seed and text of which feed-forward layers alone were trained; eleven domains of real text, which is left out, with the
reason, where that text is not at hand. Each is the run of a recipe up to its assembly, in a folder of ``runs/``, which
is made if it is not there: some minutes a set on two cores.

``mergekit-moe`` makes its gates from prompts: the first tokens of training documents of each domain. All routers are
put into the same two sparse checkpoints, so that they differ in nothing else: one whose attention, norms and embeddings
are averaged, and one that takes them from the seed, which is what ``mergekit-moe`` writes. The loss is that on the
run's test documents.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel

import moesaic
from benchmarks.record import save
from moesaic.arena import Bootstrap, Interval, measure
from moesaic.errors import DataError
from moesaic.members import load_network
from moesaic.moe import assemble, find_gates, initialize_router
from moesaic.recipe import load_recipe
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.work import ROUTERS, Work

PROMPTS = 64
PROMPT_TOKENS = 32
MODES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed")
COLUMNS = ("shared averaged", "shared from the seed")


@dataclass(frozen=True)
class ExpertSet:
    recipe: str
    run: str
    settings: tuple[str, ...] = ()


SETS = {
    "quickstart": ExpertSet("recipes/quickstart.yaml", "runs/quickstart"),
    "feed-forward only": ExpertSet(
        "recipes/quickstart.yaml", "runs/quickstart-feed-forward", ("experts.train=feed_forward",)
    ),
    "multidomain": ExpertSet("recipes/multidomain.yaml", "runs/multidomain"),
}


def write_prompts(work: Work, path: Path, experts: list[Path], base: Path, mode: str) -> None:
    """``mergekit-moe``'s configuration; JSON is YAML."""
    listed = []
    for domain, expert in zip(work.domains, experts, strict=True):
        starts = domain.train.document_starts[:PROMPTS].tolist()
        tokens = [domain.train.tokens[start : start + PROMPT_TOKENS].tolist() for start in starts]
        listed.append({"source_model": str(expert), "positive_prompts": work.tokenizer.batch_decode(tokens)})
    config = {"base_model": str(base), "gate_mode": mode, "dtype": "float32", "experts": listed}
    path.write_text(json.dumps(config))


def run_mergekit(work: Work, mergekit: Path, mode: str, folder: Path) -> dict[int, Tensor]:
    """The gates that ``mergekit-moe`` writes, by layer."""
    stages = work.folder.path / "stages"
    experts = [stages / f"expert-{name}" / "model" for name in work.recipe.domain_names]
    write_prompts(work, folder / f"{mode}.yaml", experts, stages / "seed" / "model", mode)
    command = [str(mergekit / "bin" / "mergekit-moe"), str(folder / f"{mode}.yaml"), str(folder / mode)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"mergekit-moe failed:\n{result.stderr[-2000:]}")
    gates = find_gates(load_network(folder / mode))
    return {layer: gate.weight.detach().clone() for layer, gate in enumerate(gates)}


def put(network: PreTrainedModel, weights: Mapping[int, Tensor]) -> PreTrainedModel:
    with torch.no_grad():
        for layer, gate in enumerate(find_gates(network)):
            gate.weight.copy_(weights[layer])
    return network


def loss(work: Work, network: PreTrainedModel) -> Interval:
    """Mean over domains, with its interval."""
    blocks = work.test_blocks()
    scores = measure(network, blocks, batch_size=work.recipe.arena.batch_size, name="mixture").scores
    return Bootstrap().interval(scores, "nats_per_token", list(blocks))


def rows_of_set(name: str, experts: ExpertSet, mergekit: Path) -> list[dict[str, str]]:
    """Every router's losses on one set of experts, the lowest first."""
    made = moesaic.run(experts.recipe, settings=experts.settings, folder=experts.run, until="assemble", quiet=True)
    work = Work(load_recipe(experts.recipe, experts.settings), RunFolder(made.folder), Console(file=io.StringIO()))
    losses: dict[str, dict[str, Interval]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        gates = {f"mergekit-moe {mode}": run_mergekit(work, mergekit, mode, folder) for mode in MODES}
        sources: list[str | Path] = ["average", work.folder.stage_folder("seed") / "model"]
        for column, shared in zip(COLUMNS, sources, strict=True):
            network = load_network(assemble(work.expert_paths(), folder / column, shared=shared))
            for method in ROUTERS:
                initialize_router(network, work.router_texts(), method=method, seed=work.recipe.random_seed)
                losses.setdefault(f"moesaic {method}", {})[column] = loss(work, network)
            for router, weights in gates.items():
                losses.setdefault(router, {})[column] = loss(work, put(network, weights))
    ordered = sorted(losses.items(), key=lambda row: row[1][COLUMNS[0]].value)
    return [
        {"experts": name, "router": router} | {column: str(interval) for column, interval in intervals.items()}
        for router, intervals in ordered
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, required=True, help="A virtual environment with mergekit 0.1.5.")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="Which sets of experts.")
    arguments = parser.parse_args()
    rows: list[dict[str, str]] = []
    left_out: dict[str, str] = {}
    for name in arguments.sets:
        try:
            rows += rows_of_set(name, SETS[name], arguments.mergekit)
        except DataError as error:
            left_out[name] = str(error)
            print(f"{name} is left out: {error}")
    recipes = {name: [SETS[name].recipe, *SETS[name].settings] for name in arguments.sets}
    save("untrained_routers", rows, recipes=recipes, left_out=left_out, prompts=PROMPTS, prompt_tokens=PROMPT_TOKENS)


if __name__ == "__main__":
    main()
