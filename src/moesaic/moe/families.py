"""Which dense architecture becomes which sparse one: a renaming of tensors and a translation of the configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, MixtralConfig, PreTrainedConfig, Qwen3MoeConfig

from moesaic.errors import CheckpointError

_FEED_FORWARD = re.compile(r"^model\.layers\.(\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight$")


@dataclass(frozen=True)
class Family:
    """How one dense architecture becomes a sparse one.

    Attributes:
        dense_types: The ``model_type`` of the donors.
        config_class: The configuration of the sparse model.
        expert_names: On-disk name of each feed-forward matrix of an expert, with the places ``layer`` and ``expert``.
        router_name: On-disk name of a layer's router, with the place ``layer``.
        renormalizes_always: Whether the sparse architecture rescales the kept weights to sum to 1 whatever its
            configuration says.
    """

    dense_types: tuple[str, ...]
    config_class: type[PreTrainedConfig]
    expert_names: Mapping[str, str]
    router_name: str
    renormalizes_always: bool

    def expert_tensor(self, donor_name: str, expert: int) -> str | None:
        """What a donor's tensor is called as part of an expert; ``None`` if it belongs to no feed-forward layer."""
        match = _FEED_FORWARD.match(donor_name)
        return None if match is None else self.expert_names[match[2]].format(layer=match[1], expert=expert)

    def donor_tensor(self, sparse_name: str) -> tuple[str, int] | None:
        """What an expert's tensor was called in its donor, and whose it is; ``None`` if it belongs to no expert.

        Example:
            >>> MIXTRAL.donor_tensor("model.layers.0.block_sparse_moe.experts.2.w1.weight")
            ('model.layers.0.mlp.gate_proj.weight', 2)
        """
        for matrix, pattern in self.expert_names.items():
            numbered = re.escape(pattern).replace(r"\{layer\}", r"(\d+)").replace(r"\{expert\}", r"(\d+)")
            match = re.fullmatch(numbered, sparse_name)
            if match is not None:
                return f"model.layers.{match[1]}.mlp.{matrix}.weight", int(match[2])
        return None


MIXTRAL = Family(
    dense_types=("llama", "mistral"),
    config_class=MixtralConfig,
    expert_names={
        "gate_proj": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
        "up_proj": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
        "down_proj": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
    },
    router_name="model.layers.{layer}.block_sparse_moe.gate.weight",
    renormalizes_always=True,
)
QWEN3_MOE = Family(
    dense_types=("qwen3",),
    config_class=Qwen3MoeConfig,
    expert_names={
        name: "model.layers.{layer}.mlp.experts.{expert}." + name + ".weight"
        for name in ("gate_proj", "up_proj", "down_proj")
    },
    router_name="model.layers.{layer}.mlp.gate.weight",
    renormalizes_always=False,
)
FAMILIES = (MIXTRAL, QWEN3_MOE)

_KEPT = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_parameters",
    "sliding_window",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "attention_bias",
    "use_sliding_window",
    "max_window_layers",
]


def family_of(model_type: str) -> Family:
    """The family of a dense architecture.

    Raises:
        CheckpointError: If no sparse architecture is known for it.
    """
    for family in FAMILIES:
        if model_type in family.dense_types:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.dense_types)
    raise CheckpointError(
        f"Checkpoints of type {model_type!r} cannot be assembled into a sparse one. There is a sparse architecture for "
        f"{known}; combine others at logits, with moesaic.Mixture."
    )


def sparse_family_of(model_type: str) -> Family | None:
    """The family whose sparse architecture this is; ``None`` if :func:`moesaic.assemble` writes no such thing."""
    return next((family for family in FAMILIES if family.config_class.model_type == model_type), None)


def sparse_config(dense: PreTrainedConfig, *, expert_names: Sequence[str], num_experts_per_tok: int) -> dict[str, Any]:
    """The configuration of the sparse model, as JSON values.

    Both names of the expert count are written, since readers outside of Transformers know only one or the other, and
    the experts' own names, which Transformers keeps and others ignore.

    Raises:
        CheckpointError: If the dense model has something that the sparse architecture cannot express.
    """
    family = family_of(dense.model_type)
    if family is MIXTRAL and (getattr(dense, "attention_bias", False) or getattr(dense, "mlp_bias", False)):
        raise CheckpointError(
            "The members have biases (attention_bias or mlp_bias), which Mixtral cannot express. Combine them at "
            "logits, with moesaic.Mixture."
        )
    known = family.config_class()
    kept = {name: getattr(dense, name) for name in _KEPT if hasattr(dense, name) and hasattr(known, name)}
    if family is QWEN3_MOE:
        kept |= {
            "moe_intermediate_size": dense.intermediate_size,
            # Transformers' class has no such default, but its attention reads it.
            "head_dim": dense.head_dim,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    config = family.config_class(**kept, num_experts_per_tok=num_experts_per_tok, output_router_logits=False)
    architecture = family.config_class.__name__.replace("Config", "ForCausalLM")
    values = json.loads(config.to_json_string(use_diff=False))
    count = len(expert_names)
    return values | {
        "architectures": [architecture],
        "num_experts": count,
        "num_local_experts": count,
        "expert_names": list(expert_names),
    }


def donor_config(sparse: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The configuration that a sparse checkpoint's donors had, of the dense architecture ``model_type``."""
    head_dim = sparse.get("head_dim") or sparse["hidden_size"] // sparse["num_attention_heads"]
    kept = {name: sparse[name] for name in _KEPT if name in sparse}
    return {"model_type": model_type} | kept | {"head_dim": head_dim}


def is_sparse(config: Any) -> bool:
    """Whether a Transformers configuration is that of a sparse model that :func:`moesaic.assemble` writes."""
    return isinstance(config, tuple(family.config_class for family in FAMILIES))


def num_experts(config: Any) -> int:
    """Number of experts in a layer, under whichever name the configuration has it."""
    return getattr(config, "num_local_experts", None) or config.num_experts


def expert_names(config: Any) -> list[str]:
    """The experts' names; numbered where the checkpoint does not tell."""
    return getattr(config, "expert_names", None) or [f"expert {index}" for index in range(num_experts(config))]


def dense_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    """A Transformers configuration from ``config.json``, with the defaults filled in."""
    return AutoConfig.for_model(**values)
