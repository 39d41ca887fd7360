"""From a recipe's sections to the objects that do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from moesaic.combiners import Choice, build_choice
from moesaic.data import SOURCES, Source
from moesaic.recipe.schema import (
    DataSection,
    DomainSection,
    MixtureTrainingSection,
    Recipe,
    RouterChoice,
    SeedSection,
    SigmoidChoice,
    TopPChoice,
    TrainingSection,
)
from moesaic.recipe.schema import Source as SourceSection
from moesaic.recipe.task_schema import TaskDataSection
from moesaic.training import ChosenLanguageModeling, SparseLanguageModeling, TrainingOptions

_CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config}


def build_source(section: SourceSection, folder: Path) -> Source:
    """A source of documents; relative paths start at the recipe's folder."""
    arguments = section.model_dump(exclude={"type"})
    if "path" in arguments:
        arguments["path"] = folder / arguments["path"]
    return SOURCES[section.type](**arguments)


def build_sources(domain: DomainSection, folder: Path) -> dict[str, Source]:
    """The sources of a domain, by what they are for."""
    sections = {"source": domain.source, "validation": domain.validation, "test": domain.test}
    return {use: build_source(section, folder) for use, section in sections.items() if section is not None}


def data_settings(section: DataSection | TaskDataSection, folder: Path) -> dict[str, Any]:
    """What prepared data depend on: what the sources hold, wherever they are, and how it becomes tokens."""
    settings = section.model_dump(exclude={"domains": {"__all__": {"source", "validation", "test"}}})
    fingerprints = [
        {use: source.fingerprint() for use, source in build_sources(domain, folder).items()}
        for domain in section.domains
    ]
    return settings | {"fingerprints": fingerprints}


def resolve_checkpoint(place: str, folder: Path) -> str:
    """A checkpoint's folder, relative to the recipe's; a Hub name as it is."""
    beside = folder / place
    return str(beside) if beside.is_dir() else place


def build_options(section: TrainingSection, recipe: Recipe, scales: dict[str, float] | None = None) -> TrainingOptions:
    """The options of a training stage; the recipe's own learning-rate scales come after the stage's."""
    arguments = section.model_dump(include=set(TrainingSection.model_fields))
    arguments["learning_rate_scales"] = (scales or {}) | section.learning_rate_scales
    return TrainingOptions(sequence_length=recipe.data.sequence_length, seed=recipe.random_seed, **arguments)


def build_router_choice(section: RouterChoice) -> Choice:
    """How a recipe's routers choose."""
    return build_choice(**section.model_dump())


def other_choices(recipe: Recipe) -> dict[str, RouterChoice]:
    """What the arena compares joint training with: stages that train the same mixture with another choice."""
    return {
        "joint-top-p": TopPChoice(type="top_p"),
        "joint-sigmoid": SigmoidChoice(type="sigmoid", top_k=recipe.assemble.num_experts_per_tok),
    }


def build_chosen_objective(section: MixtureTrainingSection) -> ChosenLanguageModeling:
    """What a stage of the sparse mixture minimizes where its routers have a choice, which keeps its own balance."""
    return ChosenLanguageModeling(router_z_loss_coef=section.router_z_loss_coef)


def build_objective(section: MixtureTrainingSection) -> SparseLanguageModeling:
    """What a stage of the sparse mixture minimizes."""
    return SparseLanguageModeling(
        router_aux_loss_coef=section.router_aux_loss_coef,
        router_z_loss_coef=section.router_z_loss_coef,
        router_domain_loss_coef=section.router_domain_loss_coef,
    )


def build_seed(
    section: SeedSection, tokenizer: PreTrainedTokenizerBase, sequence_length: int, random_seed: int
) -> PreTrainedModel:
    """A new dense model with random weights."""
    config = seed_config(section, len(tokenizer), sequence_length, tokenizer.eos_token_id)
    torch.manual_seed(random_seed)
    return AutoModelForCausalLM.from_config(config)


def seed_config(section: SeedSection, vocab_size: int, sequence_length: int, eos_token_id: int | None = 0) -> Any:
    """The Transformers configuration of a new dense model."""
    sizes = section.model_dump(include={"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"})
    return _CONFIGS[section.family](
        **sizes,
        vocab_size=vocab_size,
        num_key_value_heads=section.num_key_value_heads or section.num_attention_heads,
        head_dim=section.hidden_size // section.num_attention_heads,
        # Room for answers longer than the text that the model was trained on.
        max_position_embeddings=max(1024, sequence_length),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
    )


def road_sequences(recipe: Recipe) -> int:
    """Sequences that experts, router and joint training read together: what others may read after the seed."""
    stages = [(recipe.experts.training, 0 if recipe.experts.checkpoints else len(recipe.domain_names))]
    stages += [(recipe.router, 1), (recipe.joint, 1)]
    return sum(section.num_steps * section.batch_size * times for section, times in stages)


def road_tokens(recipe: Recipe) -> int:
    """Tokens that the whole road to the mixture is trained on, its seed included."""
    seed = recipe.seed.training.num_steps * recipe.seed.training.batch_size
    return (seed + road_sequences(recipe)) * recipe.data.sequence_length


def dense_steps(recipe: Recipe) -> int:
    """Steps that give the dense reference as many tokens as experts, router and joint training together."""
    return road_sequences(recipe) // recipe.experts.training.batch_size


def ensemble_training(recipe: Recipe, num_parts: int) -> TrainingSection:
    """The training of one of an ensemble's parts: as the recipe says, or an equal share of the mixture's tokens.

    Parts that start from scratch share out the seed's tokens too.
    """
    section = recipe.ensembles.training
    if section is not None:
        return section
    sequences = road_sequences(recipe)
    if recipe.ensembles.start == "scratch":
        sequences += recipe.seed.training.num_steps * recipe.seed.training.batch_size
    num_steps = max(1, sequences // recipe.experts.training.batch_size // num_parts)
    return recipe.experts.training.model_copy(update={"num_steps": num_steps})


def stage_tokens(section: TrainingSection, recipe: Recipe, num_steps: int | None = None) -> int:
    """Tokens that a training stage reads."""
    steps = section.num_steps if num_steps is None else num_steps
    return steps * section.batch_size * recipe.data.sequence_length
