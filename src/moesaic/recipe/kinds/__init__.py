"""What the models of a task's recipe are: one kind a file, which its `model.type` names."""

from pathlib import Path

from moesaic.recipe.kinds.checkpoint import CheckpointKind
from moesaic.recipe.kinds.kind import Fit, ModelKind, read_pairs
from moesaic.recipe.kinds.sentence_scorer import SentenceScorerKind
from moesaic.recipe.kinds.several_tokenizers import SeveralTokenizersKind, meet_at_text
from moesaic.recipe.kinds.span_reader import SpanReaderKind
from moesaic.recipe.kinds.writing import CausalKind, EncoderDecoderKind
from moesaic.recipe.task_schema import TaskRecipe

KINDS: dict[str, type[ModelKind]] = {
    "causal": CausalKind,
    "checkpoint": CheckpointKind,
    "encoder_decoder": EncoderDecoderKind,
    "sentence_scorer": SentenceScorerKind,
    "span_reader": SpanReaderKind,
}
"""Registered word of every kind of model, as recipes spell it."""


def build_kind(recipe: TaskRecipe, recipe_folder: Path, data: Path) -> ModelKind:
    """The kind that a recipe names; for the arguments see :class:`ModelKind`."""
    kind = KINDS[recipe.model.type](recipe, recipe_folder, data)
    if isinstance(kind, CheckpointKind) and meet_at_text(kind):
        return SeveralTokenizersKind(recipe, recipe_folder, data)
    return kind


__all__ = ["KINDS", "Fit", "ModelKind", "build_kind", "read_pairs"]
