"""The shapes of a recipe's models, before there are any."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from moesaic.errors import CheckpointError
from moesaic.members import read_checkpoint
from moesaic.members.checkpoints import Checkpoint
from moesaic.moe import check_complete, family_of, find_differences, sparse_config
from moesaic.recipe.build import resolve_checkpoint, seed_config
from moesaic.recipe.load import LoadedRecipe
from moesaic.recipe.schema import Recipe


def dense_config(loaded: LoadedRecipe[Recipe]) -> tuple[Any | None, list[str]]:
    """The configuration that seed and experts share, and what is wrong with their checkpoints."""
    recipe = loaded.recipe
    given = dict(recipe.experts.checkpoints)
    if recipe.seed.checkpoint:
        given = {"seed": recipe.seed.checkpoint} | given
    if not given:
        return seed_config(recipe.seed, recipe.data.vocab_size, recipe.data.sequence_length), []
    problems, whole = [], {}
    for name, place in given.items():
        try:
            checkpoint: Checkpoint = read_checkpoint(resolve_checkpoint(place, loaded.path.parent))
            check_complete(checkpoint, name)
            family_of(checkpoint.config["model_type"])
            whole[name] = checkpoint
        except CheckpointError as error:
            problems.append(str(error))
    if len(whole) > 1:
        problems += find_differences(whole)
    if not whole or problems:
        return None, problems
    config = AutoConfig.from_pretrained(next(iter(whole.values())).path)
    if config.max_position_embeddings < recipe.data.sequence_length:
        problems.append(
            f"data.sequence_length: {recipe.data.sequence_length} is more than the {config.max_position_embeddings} "
            "positions of the checkpoints. Lower it."
        )
    return config, problems


def mixture_config(recipe: Recipe, dense: Any) -> Any:
    """The configuration of the sparse mixture that is made of experts of one shape."""
    names, top_k = recipe.domain_names, recipe.assemble.num_experts_per_tok
    values = sparse_config(dense, expert_names=names, num_experts_per_tok=top_k)
    return family_of(dense.model_type).config_class(**values)
