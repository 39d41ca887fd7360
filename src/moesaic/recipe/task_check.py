"""What a task recipe will need, and all that is wrong with it, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from moesaic.data import Pair, RowSource, Source
from moesaic.errors import CheckpointError, DataError
from moesaic.recipe.build import build_sources
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
        notes: What the first rows of sources are like, where models of this kind cannot learn from all.
    """

    recipe: str
    parameters: int | None
    pairs: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [self.recipe]
        if self.parameters is not None:
            lines.append(f"  expert   {self.parameters:>15,} parameters")
        lines += [f"    {stage:20} {pairs:>15,} pairs" for stage, pairs in self.pairs.items()]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  problem: {problem}" for problem in self.problems] or ["  nothing stands in the way"]
        return "\n".join(lines)


def plan_task(loaded: LoadedRecipe[TaskRecipe]) -> TaskPlan:
    """Count parameters and pairs, and read the first rows of every source."""
    recipe = loaded.recipe
    kind = build_kind(recipe, loaded.path.parent, Path())
    problems, notes = _look_at_rows(loaded, kind)
    unfit = list(_unfit(kind))
    problems += unfit
    section, names = recipe.experts.training, recipe.domain_names
    given = bool(recipe.given_experts)
    per_stage = section.num_steps * section.batch_size
    pairs = {"seed": recipe.seed.num_steps * recipe.seed.batch_size} if recipe.seed.num_steps else {}
    if not given:
        pairs |= {f"expert-{name}": per_stage * recipe.num_members_of(name) for name in names}
    for task in recipe.shared_tasks:
        pairs[task_dense_stage(task)] = task_dense_steps(recipe, task) * section.batch_size
    if recipe.has_dense:
        pairs["dense"] = dense_steps(recipe) * section.batch_size
    pairs["router"] = recipe.router.training.num_steps * recipe.router.training.batch_size
    if recipe.joint.num_steps:
        pairs["joint"] = recipe.joint.num_steps * recipe.joint.batch_size
    parameters = None if given or unfit else kind.count_parameters()
    return TaskPlan(loaded.path.name, parameters, pairs, tuple(problems), tuple(notes))


def _look_at_rows(loaded: LoadedRecipe[TaskRecipe], kind: ModelKind) -> tuple[list[str], list[str]]:
    """What is wrong with the first rows of every source, and what there is to say of them."""
    problems, notes = [], []
    for domain in loaded.recipe.data.domains:
        for use, source in build_sources(domain, loaded.path.parent).items():
            try:
                note = kind.note(_first_pairs(loaded.recipe, domain, source))
            except DataError as error:
                problems.append(f"data.domains, {domain.name}: {error}")
                continue
            if note:
                notes.append(f"data.domains, {domain.name}, first rows of {use}: {note}")
    return problems, notes


def _unfit(kind: ModelKind) -> Iterator[str]:
    """What is wrong with the checkpoints that the recipe gives."""
    for key, place in kind.given_checkpoints.items():
        try:
            kind.check(place)
        except CheckpointError as error:
            yield f"{key}: {error}"


def _first_pairs(recipe: TaskRecipe, domain: TaskDomainSection, source: Source) -> list[Pair]:
    """The first rows of a source, as pairs.

    Raises:
        DataError: If the source is not there or has documents instead, or a row does not fit the task.
    """
    tasks, name = build_tasks(recipe), recipe.task_of(domain.name)
    if not isinstance(source, RowSource):
        raise DataError(f"{source} has documents, and a task needs rows with fields.")
    return [tasks.pair(name, domain.fields | row, place) for place, row in islice(source.rows(), _ROWS_READ)]
