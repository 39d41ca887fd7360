"""How good is a mixture whose router was never trained: ours against ``mergekit-moe``'s hidden-state gates?

    moesaic run recipes/quickstart.yaml
    python -m benchmarks.untrained_routers --mergekit MERGEKIT

Takes the experts of a finished run, trained on their domains. ``mergekit-moe`` makes its gates from prompts: the first
tokens of training documents of each domain. All routers are put into the same two sparse checkpoints, so that they
differ in nothing else: one whose attention, norms and embeddings are averaged, and one that takes them from the seed,
which is what ``mergekit-moe`` writes. The loss is that on the run's test documents.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.record import save
from moesaic.arena import Bootstrap, measure
from moesaic.members import load_network
from moesaic.moe import assemble, find_gates, initialize_router
from moesaic.recipe import load_recipe
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.work import ROUTERS, Work

PROMPTS = 64
PROMPT_TOKENS = 32
MODES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed")


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


def loss(work: Work, network: PreTrainedModel) -> str:
    """Mean over domains, with its interval."""
    blocks = work.test_blocks()
    scores = measure(network, blocks, batch_size=work.recipe.arena.batch_size, name="mixture").scores
    return str(Bootstrap().interval(scores, "nats_per_token", list(blocks)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, required=True, help="A virtual environment with mergekit 0.1.5.")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="A finished run of the recipe.")
    arguments = parser.parse_args()
    work = Work(load_recipe(arguments.recipe), RunFolder(arguments.run), Console(file=io.StringIO()))
    rows: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gates = {f"mergekit-moe {mode}": run_mergekit(work, arguments.mergekit, mode, folder) for mode in MODES}
        seed = work.folder.stage_folder("seed") / "model"
        for shared in ("average", seed):
            column = "shared averaged" if shared == "average" else "shared from the seed"
            network = load_network(assemble(work.expert_paths(), folder / column, shared=shared))
            for method in ROUTERS:
                initialize_router(network, work.router_texts(), method=method, seed=work.recipe.random_seed)
                rows.setdefault(f"moesaic {method}", {})[column] = loss(work, network)
            for router, weights in gates.items():
                rows.setdefault(router, {})[column] = loss(work, put(network, weights))
    listed = [{"router": router} | losses for router, losses in rows.items()]
    listed.sort(key=itemgetter("shared averaged"))
    save("untrained_routers", listed, recipe=work.loaded.text, prompts=PROMPTS, prompt_tokens=PROMPT_TOKENS)


if __name__ == "__main__":
    main()
