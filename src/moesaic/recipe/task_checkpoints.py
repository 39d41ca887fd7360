"""What a recipe must say of checkpoints that its models start from, and must not."""

from __future__ import annotations

from moesaic.errors import RecipeError
from moesaic.recipe.model_sections import CheckpointSection
from moesaic.recipe.task_schema import TaskRecipe


def check_checkpoints(recipe: TaskRecipe, where: str) -> None:
    """Refuse what does not fit together where models start from checkpoints.

    Args:
        recipe: The recipe; one whose models are of another type is left alone.
        where: The recipe, as errors say it.

    Raises:
        RecipeError: If a checkpoint is missing or for no domain, adapters have several backbones, nothing would tell
            the experts apart, or a stage is trained at the learning rate of models from scratch.
    """
    model = recipe.model
    if not isinstance(model, CheckpointSection):
        return
    _check_names(model, recipe, where)
    num_steps = recipe.experts.training.num_steps
    if model.adapter is not None and not num_steps:
        raise RecipeError(
            f"{where}, experts.training.num_steps: an adapter that is not trained changes nothing. Give steps, or "
            "leave model.adapter out."
        )
    if not model.names and not num_steps:
        raise RecipeError(
            f"{where}, experts.training.num_steps: without training, all experts are one and the same checkpoint. Give "
            "steps, or a checkpoint a domain in model.names."
        )
    most = max(map(recipe.num_members_of, recipe.domain_names))
    if not num_steps and most > 1:
        raise RecipeError(
            f"{where}, experts.num_members: without training, {most} members of a domain are one "
            "and the same checkpoint. Set it to 1, or give steps."
        )
    for key, section in {"experts.training": recipe.experts.training, "joint": recipe.joint}.items():
        if section.num_steps and "learning_rate" not in section.model_fields_set:
            raise RecipeError(
                f"{where}, {key}.learning_rate: this key is needed where models start from a checkpoint, since the "
                f"default, {section.learning_rate:g}, is for models from scratch. 5e-5 is a common beginning, and 2e-4 "
                "for adapters."
            )


def _check_names(model: CheckpointSection, recipe: TaskRecipe, where: str) -> None:
    domains = ", ".join(recipe.domain_names)
    unknown = [name for name in model.names if name not in recipe.domain_names]
    missing = [name for name in recipe.domain_names if name not in model.names]
    if unknown:
        raise RecipeError(f"{where}, model.names: names {', '.join(unknown)}, but the domains are {domains}.")
    if model.name is None and missing:
        raise RecipeError(
            f"{where}, model.name: this key is needed, since model.names has no checkpoint for {', '.join(missing)}."
        )
    if model.names and model.adapter is not None:
        raise RecipeError(
            f"{where}, model.names: adapters share one backbone, model.name. Leave out model.names, or model.adapter."
        )
