"""What a recipe will need, and all that is wrong with it, before any work."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from moesaic.errors import DataError
from moesaic.members import check_targets, import_peft
from moesaic.planning import ModelSize, model_size, training_bytes, training_speed
from moesaic.recipe.build import build_objective, build_options, build_sources, other_choices
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.line_up import line_up
from moesaic.recipe.load import LoadedRecipe, load_recipe
from moesaic.recipe.schema import Recipe
from moesaic.recipe.sizes import dense_config, mixture_config
from moesaic.recipe.spending import Spending, stage_spending
from moesaic.recipe.task_check import TaskPlan, plan_task
from moesaic.recipe.task_schema import TaskRecipe
from moesaic.recipe.work import Work
from moesaic.training import language_modeling

_FORWARD_SPEED = 3.0
"""A model reads about this many times as many tokens in a second as it is trained on."""


@dataclass(frozen=True)
class StagePlan:
    """A stage that will take time.

    Attributes:
        name: What it is called.
        tokens: Tokens that it will read.
        seconds: About how long it will take on this machine.
    """

    name: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a recipe will need.

    Attributes:
        recipe: Its file's name.
        dense: Size of the seed and of every expert; ``None`` where a problem hides it.
        sparse: Size of the mixture; ``None`` where a problem hides it.
        memory_bytes: Most memory that a stage will take, about, beside what Python and PyTorch take themselves.
        free_memory_bytes: What this machine has left.
        disk_bytes: What the run will write, about.
        free_disk_bytes: What the disk has left.
        stages: What will take time.
        problems: Everything that stands in the way, in sentences.
    """

    recipe: str
    dense: ModelSize | None
    sparse: ModelSize | None
    memory_bytes: int
    free_memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    stages: tuple[StagePlan, ...]
    problems: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """About how long the whole run will take."""
        return sum(stage.seconds for stage in self.stages)

    def __str__(self) -> str:
        lines = [self.recipe]
        if self.dense and self.sparse:
            memory, free_memory, disk, free_disk = (
                f"{size / 1e9:.2f} GB"
                for size in (self.memory_bytes, self.free_memory_bytes, self.disk_bytes, self.free_disk_bytes)
            )
            lines += [
                f"  expert   {self.dense.total:>15,} parameters",
                f"  mixture  {self.sparse.total:>15,} parameters, {self.sparse.active:,} of them active",
                f"  memory   {memory:>15} beside PyTorch itself, of {free_memory} free",
                f"  disk     {disk:>15} of {free_disk} free",
                f"  time     {_duration(self.seconds):>15} on this machine, reading the text not counted",
            ]
            lines += [
                f"    {stage.name:20} {stage.tokens:>15,} tokens {_duration(stage.seconds):>9}" for stage in self.stages
            ]
        lines += [f"  problem: {problem}" for problem in self.problems] or ["  nothing stands in the way"]
        return "\n".join(lines)


def check(recipe: str | Path, *, settings: Sequence[str] = ()) -> Plan | TaskPlan:
    """Say what a recipe will need and all that is wrong with it, before any work.

    Reads the recipe and the headers of the checkpoints; trains a few steps on random tokens to see how quick this
    machine is. Nothing is written. Of a task, the first rows are read too.

    Args:
        recipe: The YAML file.
        settings: One-off changes, each ``dotted.key=value``.

    Returns:
        The plan; it prints itself.

    Raises:
        RecipeError: If the recipe cannot be read or does not make sense.
    """
    loaded = load_recipe(recipe, settings)
    if isinstance(loaded.recipe, TaskRecipe):
        return plan_task(loaded)
    problems = _source_problems(loaded)
    dense, checkpoint_problems = dense_config(loaded)
    problems += checkpoint_problems
    problems += _adapter_problems(loaded.recipe, dense)
    free_memory, free_disk = psutil.virtual_memory().available, shutil.disk_usage(Path.cwd()).free
    if dense is None:
        return Plan(loaded.path.name, None, None, 0, free_memory, 0, free_disk, (), tuple(problems))
    sparse = mixture_config(loaded.recipe, dense)
    sizes = model_size(dense), model_size(sparse)
    memory, disk = _memory(loaded.recipe, dense, sparse, *sizes), _disk(loaded.recipe, *sizes)
    for need, free, what in ((memory, free_memory, "memory"), (disk, free_disk, "disk")):
        if need > free:
            problems.append(
                f"{what}: about {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free. Make room, or lower "
                f"the "
                "sizes of the seed, batch_size or sequence_length."
            )
    fits = memory <= free_memory
    work = Work(loaded, RunFolder(Path("runs") / loaded.name), Console(file=io.StringIO()))
    stages = _stages(work, dense, sparse, stage_spending(loaded.recipe, *sizes)) if fits else ()
    return Plan(loaded.path.name, *sizes, memory, free_memory, disk, free_disk, stages, tuple(problems))


def _adapter_problems(recipe: Recipe, dense: Any) -> list[str]:
    if recipe.experts.train != "lora" or recipe.experts.checkpoints or dense is None:
        return []
    try:
        import_peft()
        with torch.device("meta"):  # the layers' names, without their weights
            check_targets(AutoModelForCausalLM.from_config(dense), recipe.experts.adapter.target_modules)
    except ImportError as error:
        return [f"experts.train: {error}"]
    except ValueError as error:
        return [f"experts.adapter.{error}"]
    return []


def _source_problems(loaded: LoadedRecipe[Recipe]) -> list[str]:
    problems = []
    for domain in loaded.recipe.data.domains:
        try:
            for source in build_sources(domain, loaded.path.parent).values():
                source.fingerprint()
        except DataError as error:
            problems.append(f"data.domains, {domain.name}: {error}")
    return problems


def _memory(recipe: Recipe, dense: Any, sparse: Any, dense_size: ModelSize, sparse_size: ModelSize) -> int:
    """The hungriest of: training the dense model, training the mixture, the experts side by side in the arena."""
    length = recipe.data.sequence_length
    needs = [4 * dense_size.total * (len(recipe.domain_names) + 1)]
    for config, size, sections in (
        (dense, dense_size, (recipe.seed.training, recipe.experts.training)),
        (sparse, sparse_size, (recipe.router, recipe.joint)),
    ):
        rows = max(section.batch_size // section.gradient_accumulation_steps for section in sections)
        needs.append(training_bytes(config, size, batch_size=rows, sequence_length=length))
    return max(needs)


def _disk(recipe: Recipe, dense: ModelSize, sparse: ModelSize) -> int:
    """Weights of every stage, the largest training checkpoint, and the tokens."""
    num_dense = 2 + (0 if recipe.experts.checkpoints else len(recipe.domain_names))
    num_sparse = 2 + sum(1 for section in (recipe.router, recipe.joint) if section.num_steps)
    tokens = 4e6 * (recipe.data.max_megabytes or 0) * len(recipe.domain_names)
    return int(4 * (dense.total * num_dense + sparse.total * (num_sparse + 3)) + tokens)


def _stages(work: Work, dense: Any, sparse: Any, spent: Mapping[str, Spending]) -> tuple[StagePlan, ...]:
    """What will take time, from the tokens that each stage reads and the speed of a few training steps."""
    recipe = work.recipe
    dense_options = build_options(recipe.experts.training, recipe)
    dense_speed = training_speed(dense, language_modeling, dense_options)
    sparse_speed = training_speed(sparse, build_objective(recipe.joint), build_options(recipe.joint, recipe))
    combinations = line_up(work)
    wanted = {*work.training_stages, *(name for combination in combinations for name in combination.needs)}
    # Where a stage also reads with models that it does not train, its operations say how much longer it takes.
    per_token = spent["dense"].flops / max(1, spent["dense"].tokens)
    stages = []
    for name, spending in spent.items():
        if name in wanted and spending.tokens:
            seconds = spending.tokens / sparse_speed
            if name not in ("router", "joint", *other_choices(recipe)):
                seconds = spending.flops / per_token / dense_speed if per_token else spending.tokens / dense_speed
            stages.append(StagePlan(name, spending.tokens, seconds))
    measured = recipe.arena.max_tokens * len(recipe.domain_names)
    tokens = sum(measured * combination.num_models for combination in combinations)
    seconds = sum(
        measured * combination.num_models / (sparse_speed if combination.kind == "mixture" else dense_speed)
        for combination in combinations
    )
    stages.append(StagePlan("arena", tokens, seconds / _FORWARD_SPEED))
    return tuple(stages)


def _duration(seconds: float) -> str:
    """A duration in the largest unit that keeps a digit.

    Example:
        >>> [_duration(seconds) for seconds in (42, 200, 9000, 200_000)]
        ['42 s', '3.3 min', '2.5 h', '2.3 d']
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
