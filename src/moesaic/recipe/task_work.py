"""What each stage of a task recipe does: it reads the folders of earlier stages and writes its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moesaic.answering import Answered, Answerer
from moesaic.arena import Kind, TaskReference, TaskRow, TaskTable, oracle_task_row
from moesaic.data import Pair, PairDomain, Sampler, load_pair_domain, write_pair
from moesaic.errors import DataError
from moesaic.recipe.build import build_source
from moesaic.recipe.kinds import Fit, ModelKind, build_kind, read_pairs
from moesaic.recipe.stage_work import SPLITS, TABLE, StageWork
from moesaic.recipe.task_build import build_tasks, dense_steps, task_dense_stage, task_dense_steps
from moesaic.recipe.task_card import task_card
from moesaic.recipe.task_schema import TaskDomainSection, TaskRecipe, TaskTrainingSection
from moesaic.recipe.task_scores import Likelihoods, measure
from moesaic.tasks import ONLY, Answers, Measured, TaskSet
from moesaic.training import Objective, TrainingOptions, is_main

ANSWERS = "answers.json"
DENSE = "dense, same total pairs"
AVERAGE = "average of the experts"
ORACLE = "own expert (domain known)"
ROUTED = "mixture, one expert a source"
JOINT = "mixture, trained jointly"


@dataclass(frozen=True)
class System:
    """Something that answers: one row of the table, or a part of one.

    Attributes:
        name: What it is called.
        kind: What it is.
        needs: The stages that it is made of.
        build: Loads it.
        training_pairs: Pairs that it was trained on, its members included; a pair counts as often as it was read.
        domains: The domains that it is asked about.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    build: Callable[[], Answerer]
    training_pairs: int
    domains: tuple[str, ...]


@dataclass(frozen=True)
class TaskWork(StageWork[TaskRecipe]):
    """The work of a recipe for a task in which rows are answered with text; what differs is in :attr:`kind`."""

    @cached_property
    def kind(self) -> ModelKind:
        """What the models are."""
        return build_kind(self.recipe, self.loaded.path.parent, self.folder.stage_folder("data"))

    # data

    def prepare_data(self, output: Path) -> None:
        """Read the rows, and write them and what models read of them; given experts are looked at before that."""
        for place in self.kind.given_checkpoints.values():
            self.kind.check(place)
        domains = [self._read_domain(section) for section in self.recipe.data.domains]
        tasks = build_tasks(self.recipe).learn(self._training_pairs(domains))
        tasks.save(output)
        for domain in domains:
            for split in SPLITS:
                lines = "".join(write_pair(pair) + "\n" for pair in getattr(domain, split))
                (output / f"{domain.name}.{split}.jsonl").write_text(lines, encoding="utf-8")
        for line in self.kind.prepare(domains, tasks, output):
            self.say(f"  {line}")

    def _training_pairs(self, domains: Sequence[PairDomain]) -> dict[str, list[Pair]]:
        """What is there to train on for each task."""
        pairs: dict[str, list[Pair]] = {name: [] for name in self.recipe.named_tasks}
        for domain in domains:
            pairs[self.recipe.task_of(domain.name)] += domain.train
        return pairs

    def _read_domain(self, section: TaskDomainSection) -> PairDomain:
        tasks, folder = build_tasks(self.recipe), self.loaded.path.parent

        def read(row: Mapping[str, Any], place: str) -> Pair:
            return tasks.pair(section.task or ONLY, section.fields | dict(row), place)

        sources = {"source": section.source, "validation": section.validation, "test": section.test}
        domain = load_pair_domain(
            section.name,
            read=read,
            **{use: build_source(source, folder) for use, source in sources.items() if source is not None},
            validation_fraction=self.recipe.data.validation_fraction,
            test_fraction=self.recipe.data.test_fraction,
            group_field=section.group_field or self.recipe.data.group_field,
        )
        for split in ("train", "test"):
            if not getattr(domain, split):
                raise DataError(
                    f"Domain {section.name!r} has no rows in the split {split!r}. Change data.test_fraction or "
                    "data.validation_fraction, or give the split a source of its own."
                )
        return replace(domain, test=domain.test[: self.recipe.arena.max_examples])

    def pairs(self, name: str) -> list[Pair]:
        """The pairs of a domain that systems are measured on."""
        return read_pairs(self.folder.stage_folder("data"), name, "test")

    @cached_property
    def tasks(self) -> TaskSet:
        """The tasks, with what they took from the training rows."""
        tasks = TaskSet.load(self.folder.stage_folder("data"))
        assert tasks is not None, "the data stage writes the tasks"
        return tasks

    # training

    def train_seed(self, output: Path) -> None:
        """Train the model on all domains at which the experts and the dense model start."""
        domains, random_seed = range(len(self.recipe.domain_names)), self.recipe.random_seed
        self._save(self.kind.train(domains, self.recipe.seed, random_seed, self._fit(output, "seed")), output)

    def train_expert(self, index: int, member: int, output: Path) -> None:
        """Train a model of one domain; further members of the same domain differ by their seed alone."""
        seed = self.recipe.random_seed + member
        title = f"{self.recipe.domain_names[index]}-{member + 1}"
        self._train([index], self.recipe.experts.training, title, seed, output)

    def train_task_dense(self, task: str, output: Path) -> None:
        """Train one model on all domains of a task, with as many pairs as their experts together."""
        section = self.recipe.experts.training.model_copy(update={"num_steps": task_dense_steps(self.recipe, task)})
        domains = [self.recipe.domain_names.index(name) for name in self.recipe.shared_tasks[task]]
        self._train(domains, section, task_dense_stage(task), self.recipe.random_seed, output)

    def train_dense(self, output: Path) -> None:
        """Train one model on all domains, with as many pairs as experts and joint training together."""
        section = self.recipe.experts.training.model_copy(update={"num_steps": dense_steps(self.recipe)})
        domains = range(len(self.recipe.domain_names))
        self._train(domains, section, "dense", self.recipe.random_seed, output)

    def _train(self, domains: Sequence[int], section: TaskTrainingSection, title: str, seed: int, output: Path) -> None:
        start = self.load_answerer("seed") if self.has_seed else None
        self._save(self.kind.train(domains, section, seed, self._fit(output, title), start), output)

    def train_router(self, output: Path) -> None:
        """Train the router on the sources of all domains; the experts stay as they are."""
        self._save(self.kind.train_router(self.experts(), self._fit(output, "router")), output)

    def train_jointly(self, output: Path) -> None:
        """Train experts and router together: each expert learns what the router sends it."""
        self._save(self.kind.train_jointly(self.load_answerer("router"), self._fit(output, "joint")), output)

    def _fit(self, output: Path, title: str) -> Fit:
        def fit(
            network: nn.Module, sampler: Sampler, objective: Objective, options: TrainingOptions, part: str = ""
        ) -> None:
            self.fit(network, output, title, options, objective, sampler, part)

        return fit

    def _save(self, answerer: Answerer, output: Path) -> None:
        """Write a trained model with the tasks that it does."""
        if is_main():
            answerer.save(output / "model")
            self.tasks.save(output / "model")
            self.forget_checkpoints(output)

    def experts(self) -> dict[str, Answerer]:
        """The experts by name, in the order of the domains."""
        return self.kind.load_all(dict(zip(self.recipe.domain_names, self.expert_places(), strict=True)))

    def load_answerer(self, stage: str) -> Answerer:
        """The model that a finished stage made."""
        return self.kind.load(self.folder.stage_folder(stage) / "model")

    def expert_places(self) -> list[str]:
        """Where the experts are, in the order of the domains."""
        given = self.recipe.given_experts
        if given:
            return [self.resolve(given[name]) for name in self.recipe.domain_names]
        return [str(self.folder.stage_folder(f"expert-{name}") / "model") for name in self.recipe.domain_names]

    # what is compared

    def systems(self) -> list[System]:
        """Everything that answers, in the order of the table."""
        names = self.recipe.domain_names
        pairs = self._pairs_of_experts
        found = [
            System(
                f"expert {name}",
                "expert",
                self.expert_stages[index : index + 1],
                partial(self.kind.load, place),
                pairs(1),
                names,
            )
            for index, (name, place) in enumerate(zip(names, self.expert_places(), strict=True))
        ]
        everything = pairs(len(names))
        for task, domains in self.recipe.shared_tasks.items():
            stage = task_dense_stage(task)
            build, its_pairs = self._stage(stage), pairs(len(domains))
            found.append(System(task_dense_name(task), "reference", (stage,), build, its_pairs, domains))
        if self.recipe.has_dense:
            found.append(System(DENSE, "reference", ("dense",), self._stage("dense"), self._joint_pairs(), names))
        if self.kind.can_average:
            found.append(System(AVERAGE, "ensemble", self.expert_stages, self._average, everything, names))
        found.append(System(ROUTED, "mixture", ("router",), self._stage("router"), everything, names))
        if self.recipe.joint.num_steps:
            found.append(System(JOINT, "mixture", ("joint",), self._stage("joint"), self._joint_pairs(), names))
        return found + self._members_and_ensembles()

    def _members_and_ensembles(self) -> list[System]:
        """Further members of each domain, and the ensemble of all its members; each is asked about its own domain."""
        count, pairs = self.recipe.experts.num_members, self._pairs_of_experts
        found = []
        for index, name in enumerate(self.recipe.domain_names if count > 1 else ()):
            stages = self.member_stages(index)
            for number, stage in enumerate(stages[1:], start=2):
                member, build = member_name(number, name), self._stage(stage)
                found.append(System(member, "expert", (stage,), build, pairs(1), (name,)))
            if self.kind.can_average:
                build = partial(self._ensemble, index)
                found.append(System(ensemble_name(count, name), "ensemble", stages, build, pairs(count), (name,)))
        return found

    def _stage(self, stage: str) -> Callable[[], Answerer]:
        return partial(self.load_answerer, stage)

    def _average(self) -> Answerer:
        return self.kind.average(self.experts(), range(len(self.recipe.domain_names)))

    def _ensemble(self, index: int) -> Answerer:
        stages = self.member_stages(index)
        members = self.kind.load_all({stage: self.folder.stage_folder(stage) / "model" for stage in stages})
        return self.kind.average(members, [index])

    def _pairs_of_experts(self, count: int) -> int:
        """Pairs that so many experts were trained on, with their seed; 0 where they came from elsewhere."""
        if self.recipe.given_experts:
            return 0
        section = self.recipe.experts.training
        return self._seed_pairs + count * section.num_steps * section.batch_size

    def _joint_pairs(self) -> int:
        return self._seed_pairs + dense_steps(self.recipe) * self.recipe.experts.training.batch_size

    @property
    def _seed_pairs(self) -> int:
        return self.recipe.seed.num_steps * self.recipe.seed.batch_size

    # measuring and handing over

    @torch.no_grad()
    def write_answers(self, system: System, output: Path) -> None:
        """Have a system answer the test rows of its domains."""
        answerer = system.build()
        texts, seconds, routed, likelihoods = {}, {}, {}, {}
        for name in system.domains:
            pairs = self.pairs(name)
            started = time.perf_counter()
            answers = answerer.answer(pairs)
            seconds[name] = time.perf_counter() - started
            texts[name] = [answer.text for answer in answers]
            if answerer.chooses_one:
                routed[name] = _mean_shares(answers)
            if self.tasks.tasks[self.recipe.task_of(name)].scores_references:
                likelihoods[name] = answerer.score(pairs)
        written = {"texts": texts, "seconds": seconds, "routed": routed, "likelihoods": likelihoods}
        written |= {"total": answerer.num_parameters, "active": answerer.active_parameters}
        (output / ANSWERS).write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")

    def compare(self, folders: Sequence[Path], output: Path) -> None:
        """Score all answers, domain by domain, against the domain's best model of its own."""
        systems = self.systems()
        answered = {
            system.name: json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
            for system, folder in zip(systems, folders, strict=True)
        }
        cells: dict[str, dict[str, Any]] = {system.name: {} for system in systems}
        baselines, references = {}, {}
        for domain in self.recipe.domain_names:
            task, texts, likelihoods = self.recipe.task_of(domain), *_of_domain(answered, domain)
            texts = {**texts, **self.tasks.baselines(task, self.pairs(domain))}
            baselines[domain] = self._best_own(domain, texts, likelihoods)
            for name, measured in self._compare(domain, texts, likelihoods, baselines[domain]).items():
                cells.setdefault(name, {})[domain] = measured
            if task in self.recipe.shared_tasks:
                references[domain] = self._task_reference(domain, texts, likelihoods)
            self.say(f"  {domain}: {baselines[domain]} is the best model of its own")
        table = self._table(systems, answered, cells, baselines, references)
        (output / TABLE).write_text(table.to_json())
        (output / "table.md").write_text(table.to_markdown() + "\n" + table.confusion_markdown())
        (output / "table.csv").write_text(table.to_csv())

    def _compare(
        self,
        domain: str,
        texts: Answers,
        likelihoods: Likelihoods,
        baseline: str,
        *,
        num_resamples: int | None = None,
    ) -> dict[str, dict[str, Measured]]:
        return measure(
            self.tasks,
            self.recipe.task_of(domain),
            texts,
            likelihoods,
            self.pairs(domain),
            baseline=baseline,
            num_resamples=num_resamples or self.recipe.arena.num_resamples,
        )

    def _task_reference(self, domain: str, texts: Answers, likelihoods: Likelihoods) -> TaskReference:
        """How all others compare with the model of the domain's task alone."""
        name, metric = task_dense_name(self.recipe.task_of(domain)), self.recipe.metrics_of(domain)[0]
        found = self._compare(domain, texts, likelihoods, name)
        p_values = {system: measured[metric].p_value for system, measured in found.items() if metric in measured}
        return TaskReference(name, {system: p_value for system, p_value in p_values.items() if p_value is not None})

    def _further_members(self) -> range:
        return range(2, self.recipe.experts.num_members + 1)

    def _best_own(self, domain: str, texts: Answers, likelihoods: Likelihoods) -> str:
        """The best of a domain's own models."""
        names = [f"expert {domain}", *(member_name(member, domain) for member in self._further_members())]
        if len(names) == 1:
            return names[0]
        found = self._compare(domain, {name: texts[name] for name in names}, likelihoods, names[0], num_resamples=1)
        return max(names, key=lambda name: found[name][self.recipe.metrics_of(domain)[0]].value)

    def _table(
        self,
        systems: Sequence[System],
        answered: Mapping[str, Mapping[str, Any]],
        cells: Mapping[str, Mapping[str, Any]],
        baselines: Mapping[str, str],
        references: Mapping[str, TaskReference],
    ) -> TaskTable:
        rows = [
            TaskRow(
                system.name,
                system.kind,
                cells[system.name],
                answered[system.name]["total"],
                answered[system.name]["active"],
                system.training_pairs,
                answered[system.name]["seconds"],
            )
            for system in systems
        ]
        experts = rows[: len(self.recipe.domain_names)]
        oracle = oracle_task_row(experts, self.recipe.domain_names, ORACLE)
        # They share the seed, which counts once.
        rows.insert(len(experts), replace(oracle, training_pairs=self._pairs_of_experts(len(experts))))
        # What needs no model stands before everything else.
        for name in reversed([name for name in cells if name not in answered]):
            rows.insert(0, TaskRow(name, "reference", cells[name], 0, 0, 0, {}))
        metrics = {domain: self.recipe.metrics_of(domain) for domain in self.recipe.domain_names}
        final = JOINT if self.recipe.joint.num_steps else ROUTED
        return TaskTable(
            tuple(rows),
            self.recipe.domain_names,
            tuple(dict.fromkeys(metric for own in metrics.values() for metric in own)),
            baselines,
            self.tasks.signatures(),
            answered[final]["routed"],
            {} if ONLY in self.tasks.tasks else metrics,
            references,
        )

    @property
    def table(self) -> TaskTable:
        """The finished arena's table."""
        return TaskTable.from_json((self.folder.stage_folder("arena") / TABLE).read_text())

    def export(self, output: Path) -> None:
        """Write the final mixture, with its task and its card, where a user finds it."""
        source = self.folder.stage_folder(self.final_stage) / "model"
        shutil.copytree(source, output, dirs_exist_ok=True)
        card = task_card(self.loaded, self.tasks, self.kind.library, self.table)
        (output / "README.md").write_text(card, encoding="utf-8")

    # what stages know of the whole

    @property
    def has_seed(self) -> bool:
        """Whether experts and the dense model start at a model that was trained before them."""
        return self.recipe.seed.num_steps > 0

    def member_stages(self, index: int) -> tuple[str, ...]:
        """The stages that train the models of a domain; none where checkpoints are given."""
        if self.recipe.given_experts:
            return ()
        name = self.recipe.domain_names[index]
        return (f"expert-{name}", *(f"expert-{name}-{member}" for member in self._further_members()))

    @property
    def expert_stages(self) -> tuple[str, ...]:
        """The stages that train one expert a domain; none where checkpoints are given."""
        return tuple(stage for index in range(len(self.recipe.domain_names)) for stage in self.member_stages(index)[:1])

    @property
    def final_stage(self) -> str:
        """The stage that made the final mixture."""
        return "joint" if self.recipe.joint.num_steps else "router"


def task_dense_name(task: str) -> str:
    """What the model of all domains of one task is called in the table."""
    return f"dense, {task} alone"


def member_name(member: int, domain: str) -> str:
    """What a further model of a domain is called in the table."""
    return f"expert {domain}, seed {member}"


def ensemble_name(num_members: int, domain: str) -> str:
    """What the ensemble of a domain's models is called in the table."""
    return f"ensemble of {num_members} ({domain})"


def _of_domain(answered: Mapping[str, Mapping[str, Any]], domain: str) -> tuple[Answers, Likelihoods]:
    """What systems wrote in a domain, and how likely they found its references, by their names."""
    texts = {name: written["texts"][domain] for name, written in answered.items() if domain in written["texts"]}
    scored = {name: written.get("likelihoods", {}).get(domain) for name, written in answered.items()}
    return texts, {name: scores for name, scores in scored.items() if scores}


def _mean_shares(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of the rows that each expert gets."""
    return {name: sum(answer.shares[name] for answer in answers) / len(answers) for name in answers[0].shares}
