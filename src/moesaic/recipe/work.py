"""What each stage of a recipe does: it reads the folders of earlier stages and writes its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from moesaic.arena import ArenaTable, Bootstrap, Budget, Kind, Row, measure, oracle_row
from moesaic.data import (
    BatchSampler,
    EvaluationBlocks,
    PackedDocuments,
    TokenizedDomain,
    evaluation_blocks,
)
from moesaic.errors import DataError
from moesaic.explanation import map_routing, write_report
from moesaic.formats import export_checkpoint, model_card
from moesaic.members import CausalLM, adapter_only, add_adapter, embedding_scales, load_network, read_checkpoint
from moesaic.moe import (
    RouterMethod,
    assemble,
    choose_by,
    find_choices,
    initialize_router,
    write_router,
)
from moesaic.recipe.build import (
    build_chosen_objective,
    build_objective,
    build_options,
    build_router_choice,
    build_seed,
    dense_steps,
    road_tokens,
)
from moesaic.recipe.schema import MixtureTrainingSection, Recipe, RouterChoice
from moesaic.recipe.spending import Spending
from moesaic.recipe.stage_work import SPLITS, TABLE, StageWork, versions
from moesaic.training import (
    FEED_FORWARD_ONLY,
    ROUTER_ONLY,
    TrainingOptions,
    language_modeling,
)

ROUTERS: tuple[RouterMethod, ...] = ("random", "prototypes", "ridge")
"""The ways to begin a router; all of them stand in the arena."""

ROW = "row.json"


@dataclass(frozen=True)
class Work(StageWork[Recipe]):
    """The work of a recipe for language models."""

    # data

    @cached_property
    def domains(self) -> list[TokenizedDomain]:
        """The tokens of every domain."""
        folder = self.folder.stage_folder("data")
        return [
            TokenizedDomain(name, *(PackedDocuments.load(folder / f"{name}.{split}.safetensors") for split in SPLITS))
            for name in self.recipe.domain_names
        ]

    def test_blocks(self) -> dict[str, EvaluationBlocks]:
        """The test documents of every domain, cut into windows."""
        return self._blocks("test", self.recipe.arena.max_tokens)

    def validation_blocks(self) -> dict[str, EvaluationBlocks]:
        """The validation documents of every domain, cut into windows.

        Raises:
            DataError: If a domain has none.
        """
        for domain in self.domains:
            if not domain.validation.num_documents:
                raise DataError(
                    f"Domain {domain.name!r} has no document to fit a combiner on: all fell to training and testing. "
                    "Raise data.validation_fraction."
                )
        return self._blocks("validation", self.recipe.ensembles.stacking.max_tokens)

    def _blocks(self, split: str, max_tokens: int) -> dict[str, EvaluationBlocks]:
        length = self.recipe.data.sequence_length
        return {
            domain.name: evaluation_blocks(getattr(domain, split), sequence_length=length, max_tokens=max_tokens)
            for domain in self.domains
        }

    @cached_property
    def experts(self) -> list[CausalLM]:
        """The experts, in the order of the domains."""
        return [
            CausalLM(name, load_network(path), self.tokenizer)
            for name, path in zip(self.recipe.domain_names, self.expert_paths(), strict=True)
        ]

    @property
    def vocab_size(self) -> int:
        """Number of tokens that every expert knows."""
        return self.experts[0].network.config.vocab_size

    # training

    def train_seed(self, output: Path) -> None:
        """Train the dense model from which the experts branch, on all domains."""
        section, recipe = self.recipe.seed, self.recipe
        if section.checkpoint is None:
            network = build_seed(section, self.tokenizer, recipe.data.sequence_length, recipe.random_seed)
        else:
            network = load_network(read_checkpoint(self.resolve(section.checkpoint)).path)
        options = build_options(section.training, recipe)
        self.train(network, output, "seed", options, language_modeling, self.sampler(options))

    def train_expert(self, index: int, output: Path) -> None:
        """Train a branch of the seed on one domain, or an adapter on the seed."""
        section, recipe, name = self.recipe.experts, self.recipe, self.recipe.domain_names[index]
        network, scales = self.load_stage("seed"), FEED_FORWARD_ONLY if section.train == "feed_forward" else {}
        if section.train == "lora":
            shape = section.adapter.model_dump(exclude={"train_embeddings"})
            add_adapter(network, name, seed=recipe.random_seed, **shape)
            scales = adapter_only(name) | (embedding_scales(network) if section.adapter.train_embeddings else {})
        options = build_options(section.training, recipe, scales)
        self.train(network, output, f"expert-{name}", options, language_modeling, self.sampler(options, [index]))

    def train_dense(self, output: Path) -> None:
        """Train the seed on, on all domains, with the same tokens as experts, router and joint training together."""
        section = self.recipe.experts.training.model_copy(update={"num_steps": dense_steps(self.recipe)})
        options = build_options(section, self.recipe)
        self.train(self.load_stage("seed"), output, "dense", options, language_modeling, self.sampler(options))

    def train_router(self, output: Path) -> None:
        """Train the routers of the assembled mixture, all else frozen."""
        section = self.recipe.router
        network = _choose(self.load_stage("assemble"), section.choice)
        options = build_options(section, self.recipe, ROUTER_ONLY)
        self._train_mixture(network, output, "router", section, options)

    def train_jointly(self, output: Path, title: str = "joint", choice: RouterChoice | None = None) -> None:
        """Train the whole mixture; with another choice than the recipe's where one is given."""
        section = self.recipe.joint
        network = _choose(self.load_stage(self.stage_before_joint), choice or section.choice)
        self._train_mixture(network, output, title, section, build_options(section, self.recipe))

    def _train_mixture(
        self,
        network: PreTrainedModel,
        output: Path,
        title: str,
        section: MixtureTrainingSection,
        options: TrainingOptions,
    ) -> None:
        objective = build_chosen_objective(section) if find_choices(network) else build_objective(section)
        self.train(network, output, title, options, objective, self.sampler(options))

    def sampler(self, options: TrainingOptions, domains: Sequence[int] | None = None) -> BatchSampler:
        """The batches of a training stage, from the training documents of all domains or some."""
        chosen = range(len(self.domains)) if domains is None else domains
        return BatchSampler(
            [self.domains[index].train for index in chosen],
            batch_size=options.batch_size,
            sequence_length=options.sequence_length,
            seed=options.seed,
        )

    # assembly

    def assemble(self, output: Path) -> None:
        """Make one sparse checkpoint of the experts and fit its routers in every way that needs no training."""
        section, recipe = self.recipe.assemble, self.recipe
        base = self.folder.stage_folder("seed") / "model"
        shutil.rmtree(output / "model", ignore_errors=True)
        model = assemble(
            self.expert_paths(),
            output / "model",
            num_experts_per_tok=section.num_experts_per_tok,
            shared=base if section.shared == "seed" else section.shared,
            member_names=recipe.domain_names,
            router_seed=recipe.random_seed,
        )
        network, texts = load_network(model), self.router_texts()
        (output / "routers").mkdir(exist_ok=True)
        for method in ROUTERS:
            weights = initialize_router(network, texts, method=method, seed=recipe.random_seed)
            named = {str(layer): weight for layer, weight in weights.items()}
            save_file(named, output / "routers" / f"{method}.safetensors")
        write_router(model, self.routers(output)[section.router])

    def router_texts(self) -> list[list[torch.Tensor]]:
        """Text of each domain on which routers are fitted without training."""
        length, seed = self.recipe.data.sequence_length, self.recipe.random_seed
        rows = max(1, self.recipe.assemble.router_tokens // length)
        samplers = [BatchSampler([domain.train], rows, length, seed) for domain in self.domains]
        return [[sampler.batch(0).input_ids] for sampler in samplers]

    def expert_paths(self) -> list[Path]:
        """The experts' checkpoints, in the order of the domains."""
        given = self.recipe.experts.checkpoints
        if given:
            return [read_checkpoint(self.resolve(given[name])).path for name in self.recipe.domain_names]
        return [self.folder.stage_folder(f"expert-{name}") / "model" for name in self.recipe.domain_names]

    @staticmethod
    def routers(assembly: Path) -> dict[str, dict[int, torch.Tensor]]:
        """The routers that were fitted without training: their weights by method and layer."""
        stored = {method: load_file(assembly / "routers" / f"{method}.safetensors") for method in ROUTERS}
        return {method: {int(layer): weight for layer, weight in weights.items()} for method, weights in stored.items()}

    # measuring and handing over

    def measure_row(self, name: str, kind: Kind, network: nn.Module, spent: Spending, output: Path) -> None:
        """Measure one way of combining on the test documents of every domain."""
        has_validation = all(domain.validation.num_documents for domain in self.domains)
        measured = measure(
            network,
            self.test_blocks(),
            batch_size=self.recipe.arena.batch_size,
            name=name,
            calibration=self.validation_blocks() if has_validation else None,
        )
        row = measured.row(
            network,
            name=name,
            kind=kind,
            training_tokens=spent.tokens,
            training_flops=spent.flops,
            budget=self.budget,
        )
        table = self._table([row])
        self.say(f"  {table.mean(row).value:.3f} nats per token")
        (output / ROW).write_text(table.to_json())

    def collect_rows(self, folders: Sequence[Path], output: Path) -> None:
        """Put all rows into one table, with an oracle that always asks the domain's own expert."""
        rows = [row for folder in folders for row in ArenaTable.from_json((folder / ROW).read_text()).rows]
        experts = [row for row in rows if row.kind == "expert"]
        if len(experts) == len(self.recipe.domain_names):
            rows.insert(1 + rows.index(experts[-1]), oracle_row(experts, self.recipe.domain_names))
        table = self._table(rows)
        (output / TABLE).write_text(table.to_json())
        (output / "table.md").write_text(table.to_markdown())
        (output / "table.csv").write_text(table.to_csv())

    def _table(self, rows: Sequence[Row]) -> ArenaTable:
        bootstrap = Bootstrap(self.recipe.arena.num_resamples, self.recipe.random_seed)
        return ArenaTable(tuple(rows), self.recipe.domain_names, bootstrap)

    @property
    def budget(self) -> Budget:
        """What a row of the arena may use: what the recipe says, or the tokens of the whole mixture road."""
        section = self.recipe.arena.budget
        return Budget(section.training_tokens or road_tokens(self.recipe), section.training_flops)

    @property
    def table(self) -> ArenaTable:
        """The finished arena's table."""
        return ArenaTable.from_json((self.folder.stage_folder("arena") / TABLE).read_text())

    def export(self, output: Path) -> None:
        """Write the final model, with its card, where a stranger finds it."""
        source = self.folder.stage_folder(self.final_stage) / "model"
        card = model_card(
            title=self.loaded.name,
            experts=self.recipe.domain_names,
            top_k=None if self.recipe.choice_at_the_end else self.recipe.assemble.num_experts_per_tok,
            verdict=self.table.verdict(),
            table=self.table.to_markdown(),
            versions=versions(),
            recipe=self.loaded.text,
        )
        export_checkpoint(source, output / "model", card)
        for file in (output / "model").iterdir():
            file.rename(output / file.name)
        (output / "model").rmdir()

    def report(self, output: Path) -> None:
        """Write the page."""
        network = self.load_stage(self.final_stage)
        routing = map_routing(
            network, self.test_blocks(), list(self.recipe.domain_names), batch_size=self.recipe.arena.batch_size
        )
        (output / "routing.json").write_text(json.dumps(routing.to_json()))
        for line in routing.warnings():
            self.say(f"  {line}")
        write_report(
            output / "report.html",
            title=self.loaded.name,
            table=self.table,
            histories={stage: self.history(stage) for stage in self.training_stages},
            routing_map=routing,
            recipe=self.loaded.text,
            versions=versions(),
        )

    # what stages know of the whole

    @property
    def has_seed(self) -> bool:
        """Whether there is a dense model from which the experts came."""
        return not self.recipe.experts.checkpoints or self.recipe.seed.checkpoint is not None

    @property
    def expert_stages(self) -> tuple[str, ...]:
        """The stages that train experts; none where checkpoints are given."""
        if self.recipe.experts.checkpoints:
            return ()
        return tuple(f"expert-{name}" for name in self.recipe.domain_names)

    @property
    def bagging_stages(self) -> tuple[str, ...]:
        """The stages that train bagged members."""
        return tuple(f"bagging-{number}" for number in range(1, self.recipe.ensembles.bagging.num_members + 1))

    @property
    def deep_stages(self) -> tuple[str, ...]:
        """The stages that train the members of a deep ensemble."""
        return tuple(f"deep-{number}" for number in range(1, self.recipe.ensembles.bagging.num_members + 1))

    @property
    def mixture_stages(self) -> tuple[str, ...]:
        """The stages that train the assembled mixture."""
        return tuple(name for name in ("router", "joint") if getattr(self.recipe, name).num_steps)

    @property
    def stage_before_joint(self) -> str:
        """The stage whose model is trained jointly."""
        return "router" if self.recipe.router.num_steps else "assemble"

    @property
    def training_stages(self) -> tuple[str, ...]:
        """All stages that train something."""
        seed = ("seed",) if self.has_seed else ()
        dense = ("dense",) if self.has_seed else ()
        return (*seed, *self.expert_stages, *self.mixture_stages, *dense)

    @property
    def final_stage(self) -> str:
        """The stage that made the final mixture."""
        return ("assemble", *self.mixture_stages)[-1]

    @property
    def tokenizer_source(self) -> str | None:
        """The checkpoint that brings the tokenizer; ``None`` if one is trained."""
        source = self.recipe.seed.checkpoint or next(iter(self.recipe.experts.checkpoints.values()), None)
        return None if source is None else self.resolve(source)


def _choose(network: PreTrainedModel, choice: RouterChoice | None) -> PreTrainedModel:
    """The same model with routers that choose as they are told; as they did so far if they are told nothing."""
    return network if choice is None else choose_by(network, build_router_choice(choice))
