"""The road that a recipe asks for: that of language models, or that of a task."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from moesaic.recipe.folder import RunFolder, Stage
from moesaic.recipe.load import LoadedRecipe
from moesaic.recipe.road import plan_road
from moesaic.recipe.task_road import plan_task_road
from moesaic.recipe.task_schema import TaskRecipe
from moesaic.recipe.task_work import TaskWork
from moesaic.recipe.work import Work


def plan(loaded: LoadedRecipe[Any], folder: RunFolder, console: Console) -> tuple[Work | TaskWork, list[Stage]]:
    """The work of a recipe and its stages, in the order in which they are done."""
    if isinstance(loaded.recipe, TaskRecipe):
        task_work = TaskWork(loaded, folder, console)
        return task_work, plan_task_road(task_work)
    work = Work(loaded, folder, console)
    return work, plan_road(work)
