"""Does an expert that reads every token, beside those that a router chooses, help a sparse checkpoint?

    python -m benchmarks.shared_expert --seeds 0 1

The quickstart's experts become a Mixtral, as in the recipe, or a Qwen2-MoE, whose shared expert is the seed's
feed-forward layer. Its part of the output is either nothing at the beginning, so that the model starts as the Mixtral
does, or half of it. All are trained jointly for the same steps; the table gives the mean loss over domains, in nats per
token on test documents, before and after, and the feed-forward layers that a token passes through in each layer.

Reference: Dai et al. (2024), section 3.2, https://arxiv.org/abs/2401.06066
"""

from __future__ import annotations

import argparse
import io
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, Qwen2MoeConfig, Qwen2MoeForCausalLM

import moesaic
from benchmarks.record import save
from benchmarks.road_to_sparse import mean_loss
from moesaic.recipe import load_recipe
from moesaic.recipe.build import build_objective, build_options
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.work import Work
from moesaic.training import fit

RECIPE = Path("recipes/quickstart.yaml")
_COPIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class Variant:
    """A sparse model with a shared expert.

    Attributes:
        share: The shared expert's part of a layer's output at the beginning; the chosen experts have the rest.
        top_k: Experts that are chosen beside it. Of one the weight is not rescaled to 1, so that its router can learn.
    """

    share: float
    top_k: int

    def build(self, mixtral: PreTrainedModel, seed: PreTrainedModel) -> PreTrainedModel:
        """The Qwen2-MoE that has a Mixtral's experts and the seed's feed-forward layers as shared experts."""
        size, count = mixtral.config.intermediate_size, mixtral.config.num_local_experts
        config = Qwen2MoeConfig(
            **{name: getattr(mixtral.config, name) for name in _COPIED},
            moe_intermediate_size=size,
            shared_expert_intermediate_size=size,
            num_experts=count,
            num_experts_per_tok=self.top_k,
            norm_topk_prob=self.top_k > 1,
            qkv_bias=False,
        )
        network = Qwen2MoeForCausalLM(config)
        given, of_seed = mixtral.state_dict(), seed.state_dict()
        network.load_state_dict({name: self._tensor(name, given, of_seed) for name in network.state_dict()})
        return network

    def _tensor(self, name: str, mixtral: dict[str, torch.Tensor], seed: dict[str, torch.Tensor]) -> torch.Tensor:
        if name.endswith("shared_expert_gate.weight"):
            return torch.zeros(1, mixtral["model.embed_tokens.weight"].shape[1])  # the gate's sigmoid is a half
        if ".shared_expert." in name:
            weight = seed[name.replace(".shared_expert.", ".")]
            return 2 * self.share * weight if "down_proj" in name else weight
        return (1 - self.share) * mixtral[name] if name.endswith("experts.down_proj") else mixtral[name]


VARIANTS = {
    "shared expert, silent at first, and two of four": Variant(share=0.0, top_k=2),
    "shared expert, half of the output, and two of four": Variant(share=0.5, top_k=2),
    "shared expert, half of the output, and one of four": Variant(share=0.5, top_k=1),
}


def measure_variants(folder: Path, random_seed: int) -> dict[str, dict[str, float]]:
    """Go the road up to the router once, and train every variant jointly from there."""
    settings = [f"random_seed={random_seed}"]
    moesaic.run(RECIPE, folder=folder, settings=settings, until="router", quiet=True)
    work = Work(load_recipe(RECIPE, settings), RunFolder(folder), Console(file=io.StringIO()))
    found = {"two of four (as in the recipe)": _train(work, work.load_stage("router"), num_layers=2)}
    for name, variant in VARIANTS.items():
        network = variant.build(work.load_stage("router"), work.load_stage("seed"))
        found[name] = _train(work, network, num_layers=1 + variant.top_k)
        print(name, found[name], flush=True)
    return found


def _train(work: Work, network: PreTrainedModel, *, num_layers: int) -> dict[str, float]:
    section = work.recipe.joint
    options, before = build_options(section, work.recipe), mean_loss(work, network)
    fit(network, work.sampler(options), build_objective(section), options)
    return {"layers a token": num_layers, "before": before, "trained jointly": mean_loss(work, network)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/shared_expert"))
    arguments = parser.parse_args()
    found = [measure_variants(arguments.folder / f"seed-{seed}", seed) for seed in arguments.seeds]
    rows: list[dict[str, Any]] = []
    for name in found[0]:
        of_seeds = [variants[name] for variants in found]
        rows.append(
            {"mixture": name} | {key: statistics.mean(values[key] for values in of_seeds) for key in of_seeds[0]}
        )
    save("shared_expert", rows, seeds=arguments.seeds, recipe=RECIPE.read_text())


if __name__ == "__main__":
    main()
