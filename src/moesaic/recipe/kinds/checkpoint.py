"""Models that start from a checkpoint which a user brings, whole or with an adapter on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from moesaic.answering import Answerer
from moesaic.errors import CheckpointError
from moesaic.members import (
    AdaptedLM,
    adapter_only,
    add_adapter,
    check_targets,
    is_adapter,
    load_adapter,
    load_network,
    load_tokenizer,
    model_folder,
    read_checkpoint,
)
from moesaic.mixture import Mixture, MixtureConfig
from moesaic.recipe.build import resolve_checkpoint
from moesaic.recipe.kinds.writing import WritingKind
from moesaic.recipe.model_sections import CheckpointSection, EncoderDecoderSection
from moesaic.recipe.task_sections import TaskSection, TranslationSection
from moesaic.seq2seq_mixture import Seq2SeqMixture

_ADAPTER = "expert"
"""What an adapter is called that is alone on its checkpoint."""

_CLASSIFIERS = {
    name
    for names in (
        MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    )
    for name in names.values()
}
"""Transformers' classes that have another head in the place of the one that writes."""


@dataclass(frozen=True)
class CheckpointKind(WritingKind):
    """Models that start from one checkpoint, or from several of one tokenizer: causal, or an encoder and a decoder."""

    @property
    def section(self) -> CheckpointSection:
        """What the recipe says of the models."""
        assert isinstance(self.recipe.model, CheckpointSection)
        return self.recipe.model

    @property
    def given_checkpoints(self) -> dict[str, str]:
        """See :attr:`ModelKind.given_checkpoints`."""
        named = {} if self.section.name is None else {"model.name": self.section.name}
        named |= {f"model.names, {domain}": place for domain, place in self.section.names.items()}
        return {key: resolve_checkpoint(place, self.recipe_folder) for key, place in named.items()}

    @property
    def data_settings(self) -> Mapping[str, Any]:
        """See :attr:`ModelKind.data_settings`."""
        return self.section.model_dump(include={"name", "names"})

    @property
    def mixture(self) -> type[Mixture]:
        """See :attr:`WritingKind.mixture`."""
        return Seq2SeqMixture if self._config.is_encoder_decoder else Mixture

    @property
    def trained(self) -> Mapping[str, float]:
        """See :attr:`WritingKind.trained`: adapters, where there are some."""
        return {} if self.section.adapter is None else adapter_only()

    def place_of(self, domains: Sequence[int]) -> str:
        """The checkpoint that a model of some domains starts from."""
        own = self.section.names.get(self.recipe.domain_names[domains[0]]) if len(domains) == 1 else None
        place = own or self.section.name
        assert place is not None, "the recipe has a checkpoint for every domain, or one for all"
        return resolve_checkpoint(place, self.recipe_folder)

    def count_parameters(self) -> int:
        """See :meth:`ModelKind.count_parameters`; of the largest checkpoint, without adapters."""
        return max(read_checkpoint(place).num_parameters for place in self.given_checkpoints.values())

    def start(self, domains: Sequence[int]) -> Any:
        """See :meth:`WritingKind.start`."""
        network = load_network(self.check(self.place_of(domains)))
        section = self.section.adapter
        if section is None:
            return network
        add_adapter(network, _ADAPTER, seed=self.recipe.random_seed, **section.model_dump())
        return AdaptedLM(network, _ADAPTER)

    def check(self, place: str | Path) -> Path:
        """See :meth:`ModelKind.check`; an adapter's files are looked at when it is loaded."""
        return folder if is_adapter(folder := model_folder(place)) else super().check(place)

    def load(self, place: str | Path) -> Answerer:
        """See :meth:`ModelKind.load`; of an adapter, with the checkpoint that it is for."""
        return self.load_all({_ADAPTER: place})[_ADAPTER] if is_adapter(model_folder(place)) else super().load(place)

    def load_all(self, places: Mapping[str, str | Path]) -> dict[str, Answerer]:
        """See :meth:`ModelKind.load_all`: adapters share the checkpoint that they are for."""
        if not all(is_adapter(model_folder(place)) for place in places.values()):
            return super().load_all(places)
        backbone = load_network(self.check(next(iter(self.given_checkpoints.values()))))
        for name, place in places.items():
            load_adapter(backbone, place, name=name)
        return {name: self._answerer(AdaptedLM(backbone, name).eval()) for name in places}

    def check_config(self, config: Any, folder: Path) -> None:
        """See :meth:`WritingKind.check_config`: it must write, have a tokenizer, and read what is to be read."""
        if isinstance(config, MixtureConfig):
            return  # made of checkpoints that were looked at
        check_writes(config, folder)
        if config.is_encoder_decoder != self._config.is_encoder_decoder:
            raise CheckpointError(
                f"{folder}: {config.model_type} and {self._config.model_type} have the same tokens, but one of them is "
                "causal, and the other has an encoder and a decoder. Give checkpoints that are alike in this."
            )
        for task in self.recipe.named_tasks.values():
            _check_does(task, config, folder)
        load_tokenizer(folder)
        self._check_length(config, folder)
        if self.section.adapter is not None:
            _check_adapter(config, folder, self.section.adapter.target_modules)

    @cached_property
    def _config(self) -> Any:
        """What the first checkpoint says of itself."""
        return AutoConfig.from_pretrained(model_folder(next(iter(self.given_checkpoints.values()))))

    def _check_length(self, config: Any, folder: Path) -> None:
        positions = getattr(config, "max_position_embeddings", None)
        data = self.recipe.data
        lengths = (data.max_source_tokens, data.max_target_tokens)
        needed = max(lengths) if config.is_encoder_decoder else sum(lengths)
        if positions is not None and needed > positions:
            joint = "" if config.is_encoder_decoder else " together"
            raise CheckpointError(
                f"{folder}: {config.model_type} reads {positions:,} tokens, and data.max_source_tokens and "
                f"data.max_target_tokens are {lengths[0]:,} and {lengths[1]:,}{joint}. Lower them: of longer texts the "
                "beginning is read, and the run says how many were cut."
            )


def _check_does(task: TaskSection, config: Any, folder: Path) -> None:
    if config.is_encoder_decoder and task.type not in EncoderDecoderSection.tasks:
        raise CheckpointError(
            f"{folder}: {config.model_type} has an encoder and a decoder, and a {task.type} needs a causal model, "
            "which reads what was said as one text. Give one, such as Llama or Qwen3."
        )
    if isinstance(task, TranslationSection) and task.target_token and not config.is_encoder_decoder:
        raise CheckpointError(
            f"{folder}: {config.model_type} has no decoder that could be told the language by task.target_token. "
            "Say it in task.template."
        )


def check_writes(config: Any, folder: Path) -> None:
    """Refuse a model that cannot write an answer.

    Args:
        config: Its Transformers configuration.
        folder: Where it is.

    Raises:
        CheckpointError: If it only reads, as BERT does, or is no language model.
    """
    kind, architectures = type(config), set(config.architectures or ())
    if config.is_encoder_decoder:
        writes = kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    else:
        reads_both_ways = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
        writes = kind in MODEL_FOR_CAUSAL_LM_MAPPING and not reads_both_ways
    if not writes or architectures & _CLASSIFIERS:
        raise CheckpointError(
            f"{folder}: this {config.model_type} is no model that writes, so it cannot answer. Give a causal model, "
            "such as Llama, Qwen or GPT-2, or one with an encoder and a decoder, such as Marian, BART or T5."
        )
    if config.is_encoder_decoder and config.decoder_start_token_id is None:
        raise CheckpointError(
            f"{folder}: config.json has no decoder_start_token_id, so the first token of an answer has nothing to "
            "follow. Set it as the model's card says."
        )


def _check_adapter(config: Any, folder: Path, target_modules: Sequence[str] | None) -> None:
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        network = auto_class.from_config(config)
    try:
        check_targets(network, target_modules)
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"{folder}: model.adapter: {error}") from None
