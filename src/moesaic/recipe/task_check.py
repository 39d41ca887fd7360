"""What a task recipe will need, and all that is wrong with it, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from moesaic.data import RowSource
from moesaic.errors import CheckpointError, DataError
from moesaic.recipe.build import build_source
from moesaic.recipe.kinds import ModelKind, build_kind
from moesaic.recipe.load import LoadedRecipe
from moesaic.recipe.task_build import build_tasks, dense_steps, task_dense_stage, task_dense_steps
from moesaic.recipe.task_schema import TaskDomainSection, TaskRecipe

_ROWS_READ = 100
"""Rows of each source that are read to see whether they fit the task."""


@dataclass(frozen=True)
class TaskPlan:
    """What a task recipe will need.

    Attributes:
        recipe: Its file's name.
        parameters: Of an expert, and of the dense model; ``None`` where the experts are given, or the data decide.
        pairs: Pairs that each training stage will read, by its name.
        problems: Everything that stands in the way, in sentences.
    """

    recipe: str
    parameters: int | None
    pairs: dict[str, int]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        lines = [self.recipe]
        if self.parameters is not None:
            lines.append(f"  expert   {self.parameters:>15,} parameters")
        lines += [f"    {stage:20} {pairs:>15,} pairs" for stage, pairs in self.pairs.items()]
        lines += [f"  problem: {problem}" for problem in self.problems] or ["  nothing stands in the way"]
        return "\n".join(lines)


def plan_task(loaded: LoadedRecipe[TaskRecipe]) -> TaskPlan:
    """Count parameters and pairs, and read the first rows of every source."""
    recipe = loaded.recipe
    problems = [
        f"data.domains, {domain.name}: {problem}"
        for domain in recipe.data.domains
        for problem in _problems(loaded, domain)
    ]
    kind = build_kind(recipe, loaded.path.parent, Path())
    unfit = list(_unfit(kind))
    problems += unfit
    section, names = recipe.experts.training, recipe.domain_names
    given = bool(recipe.given_experts)
    trained = [] if given else [f"expert-{name}" for name in names]
    per_stage = section.num_steps * section.batch_size
    pairs = dict.fromkeys(trained, per_stage * recipe.experts.num_members)
    for task in recipe.shared_tasks:
        pairs[task_dense_stage(task)] = task_dense_steps(recipe, task) * section.batch_size
    if recipe.has_dense:
        pairs["dense"] = dense_steps(recipe) * section.batch_size
    pairs["router"] = recipe.router.training.num_steps * recipe.router.training.batch_size
    if recipe.joint.num_steps:
        pairs["joint"] = recipe.joint.num_steps * recipe.joint.batch_size
    parameters = None if given or unfit else kind.count_parameters()
    return TaskPlan(loaded.path.name, parameters, pairs, tuple(problems))


def _unfit(kind: ModelKind) -> Iterator[str]:
    """What is wrong with the checkpoints that the recipe gives."""
    for key, place in kind.given_checkpoints.items():
        try:
            kind.check(place)
        except CheckpointError as error:
            yield f"{key}: {error}"


def _problems(loaded: LoadedRecipe[TaskRecipe], domain: TaskDomainSection) -> Iterator[str]:
    tasks, name = build_tasks(loaded.recipe), loaded.recipe.task_of(domain.name)
    for section in (domain.source, domain.validation, domain.test):
        if section is None:
            continue
        try:
            source = build_source(section, loaded.path.parent)
            if not isinstance(source, RowSource):
                yield f"{source} has documents, and a task needs rows with fields."
                continue
            for place, row in islice(source.rows(), _ROWS_READ):
                tasks.pair(name, domain.fields | row, place)
        except DataError as error:
            yield str(error)
