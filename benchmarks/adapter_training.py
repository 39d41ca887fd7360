"""What keeps an adapter from learning what full training learns?

    moesaic run recipes/quickstart.yaml
    python -m benchmarks.adapter_training

One domain of a finished run, and two seeds: a model of the recipe's shape that was trained for a few steps, and the
run's own. Each is trained on in ways that differ in what is frozen: nothing; the embeddings, which are the output layer
too; all but adapters, of a small and of full rank, also at three times the learning rate; all but adapters and
embeddings. Steps, batches and learning rate are the same. The loss is that on the domain's test documents, in nats per
token.
"""

from __future__ import annotations

import argparse
import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel

from benchmarks.record import save
from moesaic.arena import measure, total_parameters
from moesaic.data import EvaluationBlocks, evaluation_blocks
from moesaic.members import adapter_only, add_adapter, embedding_scales
from moesaic.recipe import load_recipe
from moesaic.recipe.build import build_seed
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.work import Work
from moesaic.training import TrainingOptions, fit, language_modeling
from moesaic.training.options import scale_of

DOMAIN = "cpp"
BRIEF_STEPS, NUM_STEPS, BATCH_SIZE = 30, 60, 8
LEARNING_RATE = 4e-3
TEST_TOKENS = 4096


@dataclass(frozen=True)
class Way:
    """How a seed is trained on: everything, or adapters of a rank; the embeddings too or not."""

    rank: int | None = None
    embeddings: bool = False
    rate_factor: float = 1.0

    def prepare(self, network: PreTrainedModel) -> dict[str, float]:
        """Add the adapter; returns the learning-rate scales."""
        embeddings = embedding_scales(network)
        if self.rank is None:
            return {} if self.embeddings else dict.fromkeys(embeddings, 0.0)
        # The scale alpha / rank is 2 at rank 8, moesaic's own, and 1 at full rank.
        add_adapter(network, DOMAIN, rank=self.rank, alpha=max(16, self.rank))
        return adapter_only(DOMAIN) | (embedding_scales(network) if self.embeddings else {})


def ways(full_rank: int) -> dict[str, Way]:
    return {
        "everything": Way(embeddings=True),
        "all but the embeddings": Way(),
        "adapters of rank 8": Way(8),
        "adapters of rank 8, 3 times the learning rate": Way(8, rate_factor=3.0),
        f"adapters of full rank ({full_rank})": Way(full_rank),
        "adapters of rank 8, and the embeddings": Way(8, embeddings=True),
    }


def train(work: Work, network: PreTrainedModel, domains: list[int] | None, **options: Any) -> None:
    chosen = TrainingOptions(
        batch_size=BATCH_SIZE, sequence_length=work.recipe.data.sequence_length, seed=work.recipe.random_seed, **options
    )
    fit(network, work.sampler(chosen, domains), language_modeling, chosen)


def loss(network: PreTrainedModel, blocks: dict[str, EvaluationBlocks]) -> float:
    return measure(network, blocks, batch_size=32, name="model").scores[DOMAIN].value("nats_per_token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="A finished run of the recipe.")
    arguments = parser.parse_args()
    work = Work(load_recipe(arguments.recipe), RunFolder(arguments.run), Console(file=io.StringIO()))
    recipe = work.recipe
    index, length = list(recipe.domain_names).index(DOMAIN), recipe.data.sequence_length
    blocks = {DOMAIN: evaluation_blocks(work.domains[index].test, sequence_length=length, max_tokens=TEST_TOKENS)}
    brief = build_seed(recipe.seed, work.tokenizer, length, recipe.random_seed)
    train(work, brief, None, num_steps=BRIEF_STEPS, learning_rate=LEARNING_RATE)
    seeds = {"seed trained briefly": brief, "seed trained well": work.load_stage("seed")}
    rows = [{"trained": "nothing", "parameters": 0, **{title: loss(seed, blocks) for title, seed in seeds.items()}}]
    for name, way in ways(recipe.seed.hidden_size).items():
        row: dict[str, Any] = {"trained": name}
        for title, seed in seeds.items():
            network = copy.deepcopy(seed)
            scales, rate = way.prepare(network), LEARNING_RATE * way.rate_factor
            train(work, network, [index], num_steps=NUM_STEPS, learning_rate=rate, learning_rate_scales=scales)
            row["parameters"] = count_trained(network, scales)
            row[title] = loss(network.eval(), blocks)
        rows.append(row)
        print(row, flush=True)
    save("adapter_training", rows, command="adapter_training", domain=DOMAIN, brief_steps=BRIEF_STEPS, steps=NUM_STEPS)


def count_trained(network: PreTrainedModel, scales: dict[str, float]) -> int:
    frozen = [tensor.numel() for name, tensor in network.named_parameters() if scale_of(name, scales) == 0]
    return total_parameters(network) - sum(frozen)


if __name__ == "__main__":
    main()
