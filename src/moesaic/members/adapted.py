"""Members that are one frozen model with an adapter each: its weights are held once, and one call runs them all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Cache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast, Seq2SeqLMOutput

from moesaic.members.adapter_files import load_adapter
from moesaic.members.adapters import (
    adapter_names,
    adapter_settings,
    adapters_by_row,
    inject_adapter,
    merge_adapter,
)
from moesaic.members.causal_lm import CausalLM, load_member


@no_type_check  # Transformers makes the dataclass; its __init__ takes more than the fields
class AdaptedConfig(PreTrainedConfig):
    """What a saved adapted model says of itself.

    Attributes:
        backbone: The frozen model's Transformers configuration, as a dictionary.
        adapter: The name of the adapter that this model reads with.
        settings: What makes an adapter of that shape.
    """

    model_type = "moesaic_adapted"

    backbone: dict[str, Any] | None = None
    adapter: str = ""
    settings: dict[str, Any] | None = None
    vocab_size: int = 0
    decoder_start_token_id: int | None = None


class AdaptedLM(PreTrainedModel, GenerationMixin):
    """A language model that is another one, its backbone, with one of the adapters on it.

    The backbone is causal, or an encoder and a decoder; this model is then the same.

    Several may share a backbone; made by :func:`adapter_members`, they do. A Transformers model in all else: it
    generates, is a member of mixtures, and is saved and loaded by itself or with them. The adapters of others are not
    saved with it.

    Args:
        backbone: A model with adapters (:func:`moesaic.members.add_adapter`). (An :class:`AdaptedConfig` makes one with
            random weights: that is how Transformers loads one.)
        adapter: Which of them to read with.

    Raises:
        ValueError: If the backbone has no such adapter.
    """

    config_class = AdaptedConfig
    base_model_prefix = "adapted"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, backbone: PreTrainedModel | AdaptedConfig, adapter: str | None = None) -> None:
        is_loaded = isinstance(backbone, AdaptedConfig)
        if isinstance(backbone, AdaptedConfig):
            config = backbone
            auto_class: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            backbone = auto_class.from_config(AutoConfig.for_model(**(config.backbone or {})))
            inject_adapter(backbone, config.adapter, config.settings or {})
        else:
            config = _configure(backbone, adapter or "")
        super().__init__(config)
        self.backbone = backbone
        self.register_state_dict_post_hook(_leave_others_out)
        if is_loaded:
            self.post_init()
        else:
            given = backbone.generation_config if config.is_encoder_decoder else None
            self.generation_config = deepcopy(given) or GenerationConfig.from_model_config(backbone.config)

    @property
    def adapter(self) -> str:
        """The adapter's name."""
        return str(self.config.adapter)

    @property
    def num_active_parameters(self) -> int:
        """Number of parameters that work on a token: the backbone's, and those of this adapter."""
        return sum(
            parameter.numel()
            for name, parameter in self.backbone.named_parameters()
            if not _belongs_to_other(name, self.adapter)
        )

    def forward(
        self,
        input_ids: Int[Tensor, "row position"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        decoder_input_ids: Int[Tensor, "row target"] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | Seq2SeqLMOutput:
        """Read with this adapter; arguments and output are those of the backbone.

        Raises:
            ValueError: If there is nothing to read: no ``decoder_input_ids`` for a decoder, no ``input_ids`` otherwise.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "position_ids": position_ids}
        read = input_ids
        if self.config.is_encoder_decoder:
            inputs = {"input_ids": input_ids, "decoder_input_ids": decoder_input_ids}
            read = decoder_input_ids
        if read is None:
            needed = "decoder_input_ids" if self.config.is_encoder_decoder else "input_ids"
            raise ValueError(f"There is nothing to read: give {needed}.")
        inputs |= {"attention_mask": attention_mask, "past_key_values": past_key_values, "use_cache": use_cache}
        return run_adapted(self.backbone, [self.adapter] * len(read), **inputs, **kwargs)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The backbone's encoder, which reads with this adapter."""
        return _AdaptedEncoder(self.backbone, self.adapter)

    def merge(self) -> PreTrainedModel:
        """The same model without an adapter; see :func:`moesaic.members.merge_adapter`."""
        return merge_adapter(self.backbone, self.adapter)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # generate() then leaves the cache to the backbone, whose layers it is made of.
        return False

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Tell Transformers which weights the backbone ties."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        tied = self.backbone.get_expanded_tied_weights_keys(all_submodels=True)
        return {f"backbone.{target}": f"backbone.{source}" for target, source in tied.items()}

    def _init_weights(self, module: nn.Module) -> None:
        # The backbone and its adapters come initialized.
        pass


class _AdaptedEncoder(nn.Module):
    """A backbone's encoder, run with one of the adapters."""

    def __init__(self, backbone: PreTrainedModel, adapter: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter

    def forward(
        self, input_ids: Int[Tensor, "row source"], attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutput:
        with adapters_by_row(self.backbone, [self.adapter] * len(input_ids)):
            return self.backbone.get_encoder()(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


def adapter_members(backbone: CausalLM, names: Sequence[str] | None = None) -> list[CausalLM]:
    """Members that share a backbone: one for each adapter on it.

    Args:
        backbone: A model with adapters.
        names: Which of them; all if not given.

    Raises:
        ValueError: If there is no such adapter, or none at all.

    Example:
        >>> from moesaic.members import add_adapter
        >>> from moesaic.testing import tiny_causal_lm
        >>> backbone = CausalLM("tiny", tiny_causal_lm())
        >>> for name in ("news", "law"): add_adapter(backbone.network, name, rank=2)
        >>> news, law = adapter_members(backbone)
        >>> news.name, news.network.backbone is law.network.backbone
        ('news', True)
    """
    chosen = adapter_names(backbone.network) if names is None else list(names)
    if not chosen:
        raise ValueError(f"{backbone.name} has no adapter. Add one by moesaic.members.add_adapter, or load one.")
    member_class = type(backbone)
    return [member_class(name, AdaptedLM(backbone.network, name).eval(), backbone.tokenizer) for name in chosen]


def load_adapter_members(backbone: str | Path | CausalLM, adapters: Mapping[str, str | Path]) -> list[CausalLM]:
    """Load adapters of one backbone as members that share it.

    Args:
        backbone: A checkpoint, or a member that has been loaded.
        adapters: The adapters' folders, by the names that the members get.

    Raises:
        CheckpointError: If the backbone or an adapter cannot be read.
        IncompatibleMembersError: If an adapter belongs to another backbone.
        ImportError: If PEFT is not installed.
    """
    member = backbone if isinstance(backbone, CausalLM) else load_member(backbone)
    for name, folder in adapters.items():
        load_adapter(member.network, folder, name=name)
    return adapter_members(member, list(adapters))


def run_adapted(
    backbone: PreTrainedModel, names: Sequence[str], **inputs: Any
) -> CausalLMOutputWithPast | Seq2SeqLMOutput:
    """Read a batch whose rows each have an adapter of their own, in one call of the backbone.

    Args:
        backbone: The model with the adapters.
        names: The adapter of each row.
        inputs: What the backbone takes.

    Raises:
        ValueError: If the backbone recomputes its layers in the backward pass (gradient checkpointing), which would
            then run with another adapter.
    """
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules())
    if recomputes and backbone.training and torch.is_grad_enabled():
        raise ValueError(
            "A backbone whose adapters are chosen by row cannot recompute its layers. Turn that off by "
            "activation_checkpointing_disable(), and save memory by gradient_accumulation_steps."
        )
    with adapters_by_row(backbone, names):
        return backbone(**inputs)


def run_together(
    networks: Sequence[AdaptedLM], batches: Sequence[Mapping[str, Tensor | None]], cache: Cache | None, **options: Any
) -> tuple[list[Float[Tensor, "row position vocab"]], Cache | None]:
    """Run members that share a backbone on batches of their own, all in one call.

    Args:
        networks: The members.
        batches: What each reads; an input with one row is that of all its texts.
        cache: The cache of all rows, in the order of the members.
        options: What the backbone takes besides.

    Returns:
        What each member says, and the cache.
    """
    sizes = [_num_rows(batch) for batch in batches]
    names = [network.adapter for network, size in zip(networks, sizes, strict=True) for _ in range(size)]
    joined = {key: _join([batch[key] for batch in batches], sizes) for key in batches[0]}
    output = run_adapted(networks[0].backbone, names, past_key_values=cache, **joined, **options)
    return list(output.logits.split(sizes)), output.past_key_values


def find_teams(networks: Sequence[nn.Module]) -> list[list[int]]:
    """The members that can run together, as those do that share a backbone; each other one is by itself.

    Returns:
        Positions in ``networks``, ascending, each once.
    """
    teams: dict[Any, list[int]] = {}
    for number, network in enumerate(networks):
        teams.setdefault(network.backbone if isinstance(network, AdaptedLM) else number, []).append(number)
    return list(teams.values())


def find_shared_backbones(networks: Sequence[nn.Module]) -> list[list[str]]:
    """Where the models are that share a backbone with another, within mixtures of mixtures too.

    Returns:
        For each backbone that several models share, their places, such as ``0`` or ``1.members.0``.
    """
    places: dict[nn.Module, list[str]] = {}
    for place, module in nn.ModuleList(networks).named_modules(remove_duplicate=False):
        if isinstance(module, AdaptedLM):
            places.setdefault(module.backbone, []).append(place)
    return [sharing for sharing in places.values() if len(sharing) > 1]


def share_backbones(networks: Sequence[nn.Module], shared: Sequence[Sequence[str]]) -> None:
    """Have models share a backbone, in place; the adapters of all are put on the first one's.

    Args:
        networks: What was made of the networks' configurations.
        shared: What :func:`find_shared_backbones` gave for the networks.
    """
    for places in shared:
        first, *others = (nn.ModuleList(networks).get_submodule(place) for place in places)
        for other in others:
            assert isinstance(first, AdaptedLM) and isinstance(other, AdaptedLM)
            if other.adapter not in adapter_names(first.backbone):
                inject_adapter(first.backbone, other.adapter, other.config.settings)
            other.backbone = first.backbone


def _configure(backbone: PreTrainedModel, adapter: str) -> AdaptedConfig:
    config: Any = backbone.config
    return AdaptedConfig(
        backbone=config.to_dict(),
        adapter=adapter,
        settings=adapter_settings(backbone, adapter),
        vocab_size=config.vocab_size,
        bos_token_id=getattr(config, "bos_token_id", None),
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        is_encoder_decoder=config.is_encoder_decoder,
        decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
        tie_word_embeddings=False,
        dtype=config.dtype,
    )


def _belongs_to_other(name: str, adapter: str) -> bool:
    """Whether a tensor is part of an adapter, and not of this one."""
    found = re.search(r"\.lora_[AB]\.([^.]+)\.", name)
    return found is not None and found[1] != adapter


def _leave_others_out(network: AdaptedLM, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    others = [name for name in state if name.startswith(prefix) and _belongs_to_other(name, network.adapter)]
    for name in others:
        del state[name]


def _num_rows(batch: Mapping[str, Tensor | None]) -> int:
    rows = batch["input_ids"]
    assert rows is not None
    return len(rows)


def _join(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    """One batch of several; a row that all texts share is repeated for each."""
    given = [part.expand(size, *part.shape[1:]) for part, size in zip(parts, sizes, strict=True) if part is not None]
    return torch.cat(given) if given else None


AutoConfig.register("moesaic_adapted", AdaptedConfig)
AutoModelForCausalLM.register(AdaptedConfig, AdaptedLM)
AutoModelForSeq2SeqLM.register(AdaptedConfig, AdaptedLM)
