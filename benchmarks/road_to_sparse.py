"""Which road from dense experts to one sparse checkpoint keeps most of what the experts know?

    python -m benchmarks.road_to_sparse --seeds 0 1

Each road is the quickstart with a few values changed; all of one seed start from the same data and the same seed model,
and read the same number of tokens. The table gives the mean loss over domains, in nats per token on test documents, of
the mixture as it was assembled, after router training, and after joint training; and for scale the dense model that
read as many tokens, the posterior and the oracle. Figures are means over seeds, with the lowest and highest at the end.
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.nn import functional
from transformers import PreTrainedModel

import moesaic
from benchmarks.record import save
from moesaic.arena import DENSE, ORACLE, measure
from moesaic.data import Batch, BatchSampler
from moesaic.recipe import load_recipe
from moesaic.recipe.build import build_objective, build_options
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.work import Work
from moesaic.training import Losses, SparseLanguageModeling, fit

RECIPE = Path("recipes/quickstart.yaml")


def roads() -> dict[str, list[str]]:
    """Every road and the settings that make it."""
    recipe = load_recipe(RECIPE).recipe
    joint, experts = recipe.joint, recipe.experts.training
    per_expert, all_tokens = experts.num_steps, joint.num_steps + len(recipe.domain_names) * experts.num_steps
    rate = joint.learning_rate
    return {
        "as in the recipe": [],
        "joint learning rate doubled": [f"joint.learning_rate={2 * rate}"],
        "averaged parts at twice the joint rate": ['joint.learning_rate_scales={"*": 2.0, "*.experts.*": 1.0}'],
        "no load-balance loss": ["joint.router_aux_loss_coef=0.0", "router.router_aux_loss_coef=0.0"],
        "router supervised by domain labels": [
            "joint.router_domain_loss_coef=0.1",
            "router.router_domain_loss_coef=1.0",
        ],
        "shared parts from the seed": ["assemble.shared=seed"],
        "experts: shared parts at a tenth of the rate": [
            'experts.training.learning_rate_scales={"*": 0.1, "*.mlp.*": 1.0}'
        ],
        "experts: feed-forward only (FlexOlmo)": ["experts.train=feed_forward"],
        "experts: feed-forward and norms": [
            "experts.train=feed_forward",
            'experts.training.learning_rate_scales={"*norm*": 1.0}',
        ],
        "half the expert steps, their tokens to joint": [
            f"experts.training.num_steps={per_expert // 2}",
            f"joint.num_steps={joint.num_steps + len(recipe.domain_names) * (per_expert - per_expert // 2)}",
        ],
        "no experts: all tokens to joint (sparse upcycling)": [
            "experts.training.num_steps=0",
            f"joint.num_steps={all_tokens}",
        ],
    }


@dataclass(frozen=True)
class Distillation:
    """Half of the loss comes from the expert of each sequence's domain: its next-token distribution is the target.

    Reference: Hinton et al. (2015), section 2, https://arxiv.org/abs/1503.02531
    """

    teachers: Sequence[PreTrainedModel]
    objective: SparseLanguageModeling

    def __call__(self, network: Any, batch: Batch) -> Losses:
        losses = self.objective(network, batch)
        student = network(input_ids=batch.input_ids, use_cache=False).logits.log_softmax(-1)
        with torch.no_grad():
            targets = torch.empty_like(student)
            for domain, teacher in enumerate(self.teachers):
                rows = batch.domain_index == domain
                if rows.any():
                    targets[rows] = teacher(input_ids=batch.input_ids[rows], use_cache=False).logits.log_softmax(-1)
        divergence = functional.kl_div(student, targets, reduction="none", log_target=True).sum(-1).mean()
        return Losses(losses.total - 0.5 * losses.parts["nats"] + 0.5 * divergence, losses.parts)


class Track:
    """All roads from one random seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder / f"seed-{seed}"
        self.settings = [f"random_seed={seed}"]

    def base(self) -> dict[str, float]:
        """Go the recipe's own road; the losses of what the mixture is compared with."""
        run = moesaic.run(RECIPE, folder=self.folder / "base", settings=self.settings, until="arena", quiet=True)
        rows = (DENSE, ORACLE, "posterior", "probability average", "parameter average")
        return {name: run.table.mean(run.table.row(name)).value for name in rows}

    def losses(self, name: str, settings: Sequence[str]) -> dict[str, float]:
        """Go a road; the losses of the mixture on the way."""
        folder = self.folder / "road"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder / "base", folder)
        everything = [*self.settings, *settings]
        moesaic.run(RECIPE, folder=folder, settings=everything, until="joint", quiet=True)
        work = Work(load_recipe(RECIPE, everything), RunFolder(folder), Console(file=io.StringIO()))
        stages = ("assemble", *work.mixture_stages)
        return {stage: mean_loss(work, work.load_stage(stage)) for stage in stages}

    def distilled(self) -> float:
        """The mixture's loss after joint training in which its own experts teach it."""
        work = Work(load_recipe(RECIPE, self.settings), RunFolder(self.folder / "base"), Console(file=io.StringIO()))
        section, length = work.recipe.joint, work.recipe.data.sequence_length
        network, options = work.load_stage("router"), build_options(section, work.recipe)
        teachers = [work.load_stage(stage) for stage in work.expert_stages]
        sampler = BatchSampler([domain.train for domain in work.domains], options.batch_size, length, options.seed)
        fit(network, sampler, Distillation(teachers, build_objective(section)), options)
        return mean_loss(work, network)


def mean_loss(work: Work, network: PreTrainedModel) -> float:
    """A model's loss on the run's test documents, in nats per token, averaged over domains."""
    scores = measure(network, work.test_blocks(), batch_size=work.recipe.arena.batch_size, name="mixture").scores
    return statistics.mean(score.nats_per_token for score in scores.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/road_to_sparse"))
    arguments = parser.parse_args()
    tracks = [Track(arguments.folder, seed) for seed in arguments.seeds]
    references = [track.base() for track in tracks]
    rows: list[dict[str, Any]] = []
    for road, settings in roads().items():
        losses = [track.losses(road, settings) for track in tracks]
        ends = [loss["joint"] for loss in losses]
        rows.append(
            {
                "road": road,
                "assembled": statistics.mean(loss["assemble"] for loss in losses),
                "router trained": statistics.mean(loss.get("router", loss["assemble"]) for loss in losses),
                "trained jointly": statistics.mean(ends),
                "lowest": min(ends),
                "highest": max(ends),
            }
        )
        print(rows[-1], flush=True)
    ends = [track.distilled() for track in tracks]
    rows.append(
        {"road": "joint training, half of the loss from the experts", "assembled": "", "router trained": ""}
        | {"trained jointly": statistics.mean(ends), "lowest": min(ends), "highest": max(ends)}
    )
    for name in references[0]:
        values = [reference[name] for reference in references]
        mean = statistics.mean(values)
        rows.append(
            {"road": name, "assembled": "", "router trained": "", "trained jointly": mean}
            | {"lowest": min(values), "highest": max(values)}
        )
    save("road_to_sparse", rows, seeds=arguments.seeds, recipe=RECIPE.read_text())


if __name__ == "__main__":
    main()
