"""From a task recipe's sections to the objects that do the work."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerBase

from moesaic.data import PairSampler
from moesaic.members import Decoding
from moesaic.recipe.task_schema import ModelSection, TaskRecipe, TaskTrainingSection
from moesaic.tasks import GENERATIVE_TASKS, GenerativeTask
from moesaic.training import TrainingOptions


def build_task(recipe: TaskRecipe) -> GenerativeTask:
    """The task that a recipe names."""
    arguments = recipe.task.model_dump()
    return GENERATIVE_TASKS[arguments.pop("type")](**arguments)


def build_model(section: ModelSection, tokenizer: PreTrainedTokenizerBase, recipe: TaskRecipe, seed: int) -> Any:
    """A new encoder-decoder model with random weights."""
    torch.manual_seed(seed)
    return MarianMTModel(model_config(section, tokenizer, recipe))


def model_config(section: ModelSection, tokenizer: PreTrainedTokenizerBase, recipe: TaskRecipe) -> MarianConfig:
    """The Transformers configuration of a new encoder-decoder model."""
    return MarianConfig(
        vocab_size=len(tokenizer),
        d_model=section.hidden_size,
        encoder_layers=section.num_encoder_layers,
        decoder_layers=section.num_decoder_layers,
        encoder_attention_heads=section.num_attention_heads,
        decoder_attention_heads=section.num_attention_heads,
        encoder_ffn_dim=section.intermediate_size,
        decoder_ffn_dim=section.intermediate_size,
        dropout=section.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="relu",
        # Room for the token that begins a target and for the one that ends it.
        max_position_embeddings=2 + max(recipe.data.max_source_tokens, recipe.data.max_target_tokens),
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )


def build_task_options(
    section: TaskTrainingSection, sampler: PairSampler, seed: int, scales: dict[str, float] | None = None
) -> TrainingOptions:
    """The options of a training stage; the recipe's own learning-rate scales come after the stage's."""
    arguments = section.model_dump(exclude={"label_smoothing", "router_domain_loss_coef"})
    arguments["learning_rate_scales"] = (scales or {}) | section.learning_rate_scales
    mean_length = round(sampler.tokens_per_epoch / sampler.num_rows)  # of a source and its target
    return TrainingOptions(sequence_length=mean_length, seed=seed, **arguments)


def build_decoding(recipe: TaskRecipe) -> Decoding:
    """How answers are written."""
    section = recipe.decoding
    return Decoding(
        num_beams=section.num_beams,
        length_penalty=section.length_penalty,
        batch_size=section.batch_size,
        max_new_tokens=recipe.data.max_target_tokens,
        seed=recipe.random_seed,
    )


def dense_steps(recipe: TaskRecipe) -> int:
    """Steps that give the dense model as many pairs as experts and joint training together."""
    experts = recipe.experts.training
    pairs = experts.num_steps * experts.batch_size * len(recipe.domain_names)
    return (pairs + recipe.joint.num_steps * recipe.joint.batch_size) // experts.batch_size
