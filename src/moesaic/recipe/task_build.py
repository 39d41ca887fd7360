"""From a task recipe's sections to the objects that do the work, whatever kind the models are."""

from __future__ import annotations

from collections.abc import Mapping

from moesaic.recipe.task_schema import TaskRecipe, TaskTrainingSection
from moesaic.recipe.task_sections import TaskSection
from moesaic.tasks import GENERATIVE_TASKS, GenerativeTask, TaskSet
from moesaic.training import TrainingOptions


def build_tasks(recipe: TaskRecipe) -> TaskSet:
    """The tasks that a recipe names."""
    return TaskSet({name: build_task(section) for name, section in recipe.named_tasks.items()})


def build_task(section: TaskSection) -> GenerativeTask:
    """A task that a recipe names.

    Raises:
        ValueError: If its values do not fit together; it begins with the key that does not.
    """
    arguments = section.model_dump()
    return GENERATIVE_TASKS[arguments.pop("type")](**arguments)


def build_task_options(
    section: TaskTrainingSection, seed: int, *, sequence_length: int, scales: Mapping[str, float] | None = None
) -> TrainingOptions:
    """The options of a training stage; the recipe's own learning-rate scales come after the stage's.

    Args:
        section: What the recipe says of the stage.
        seed: Makes every random choice.
        sequence_length: Tokens that are read of a row, on average.
        scales: The stage's learning-rate scales.
    """
    arguments = section.model_dump(exclude={"label_smoothing", "split_probability", "router_domain_loss_coef"})
    arguments["learning_rate_scales"] = {**(scales or {}), **section.learning_rate_scales}
    return TrainingOptions(sequence_length=sequence_length, seed=seed, **arguments)


def dense_steps(recipe: TaskRecipe) -> int:
    """Steps that give the dense model as many pairs as experts and joint training together."""
    experts = recipe.experts.training
    pairs = experts.num_steps * experts.batch_size * len(recipe.domain_names)
    return (pairs + recipe.joint.num_steps * recipe.joint.batch_size) // experts.batch_size


def expert_pairs(recipe: TaskRecipe, count: int) -> int:
    """Pairs that so many experts were trained on, with their seed; 0 where they came from elsewhere."""
    if recipe.given_experts:
        return 0
    section = recipe.experts.training
    return _seed_pairs(recipe) + count * section.num_steps * section.batch_size


def joint_pairs(recipe: TaskRecipe) -> int:
    """Pairs that the jointly trained mixture was trained on, seed and experts included, as was the dense model."""
    return _seed_pairs(recipe) + dense_steps(recipe) * recipe.experts.training.batch_size


def _seed_pairs(recipe: TaskRecipe) -> int:
    return recipe.seed.num_steps * recipe.seed.batch_size


def task_dense_stage(task: str) -> str:
    """The stage that trains the dense model of one task."""
    return f"dense-{task}"


def task_dense_steps(recipe: TaskRecipe, task: str) -> int:
    """Steps that give the dense model of one task as many pairs as the experts of its domains together."""
    return recipe.experts.training.num_steps * len(recipe.shared_tasks[task])
