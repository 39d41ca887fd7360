"""What each stage of a task recipe does: it reads the folders of earlier stages and writes its own."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moesaic.answering import Answered, Answerer
from moesaic.arena import TaskTable
from moesaic.data import Pair, PairDomain, Sampler, load_pair_domain, write_pair
from moesaic.errors import DataError
from moesaic.recipe.build import build_source
from moesaic.recipe.kinds import Fit, ModelKind, build_kind, read_pairs
from moesaic.recipe.stage_work import SPLITS, TABLE, StageWork
from moesaic.recipe.task_build import build_tasks, dense_steps, task_dense_stage, task_dense_steps
from moesaic.recipe.task_card import task_card
from moesaic.recipe.task_schema import TaskDomainSection, TaskRecipe, TaskTrainingSection
from moesaic.tasks import ONLY, TaskSet
from moesaic.training import Objective, TrainingOptions, is_main

_ANSWERS = "answers.json"


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
        learned = tasks.lessons(section.task or ONLY, domain.train)
        return replace(domain, train=learned, test=domain.test[: self.recipe.arena.max_examples])

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

    # measuring and handing over

    @torch.no_grad()
    def write_answers(self, build: Callable[[], Answerer], domains: Sequence[str], output: Path) -> None:
        """Have a model answer the test rows of some domains."""
        answerer = build()
        texts, seconds, routed, likelihoods = {}, {}, {}, {}
        for name in domains:
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
        (output / _ANSWERS).write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")

    def answers_place(self, system: str) -> str:
        """Where in the run's folder the answers of a system are."""
        return "answers/" + re.sub(r"[^a-z0-9]+", "-", system.lower()).strip("-")

    def answered(self, system: str) -> dict[str, Any]:
        """What a system answered, as :meth:`write_answers` wrote it."""
        place = self.folder.path / self.answers_place(system) / _ANSWERS
        answered: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return answered

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
        further = range(2, self.recipe.num_members_of(name) + 1)
        return (f"expert-{name}", *(f"expert-{name}-{member}" for member in further))

    @property
    def expert_stages(self) -> tuple[str, ...]:
        """The stages that train one expert a domain; none where checkpoints are given."""
        return tuple(stage for index in range(len(self.recipe.domain_names)) for stage in self.member_stages(index)[:1])

    @property
    def final_stage(self) -> str:
        """The stage that made the final mixture."""
        return "joint" if self.recipe.joint.num_steps else "router"


def _mean_shares(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of the rows that each expert gets."""
    return {name: sum(answer.shares[name] for answer in answers) / len(answers) for name in answers[0].shares}
