"""Do these checkpoints fit together? Every difference is found before any work is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from moesaic.errors import CheckpointError, IncompatibleMembersError
from moesaic.members.checkpoints import Checkpoint
from moesaic.moe.families import dense_config

_MUST_AGREE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)


def check_compatible(members: Mapping[str, Checkpoint]) -> None:
    """Make sure that members can share all but their feed-forward layers.

    Args:
        members: The checkpoints, by name.

    Raises:
        CheckpointError: If one lacks a tensor that its architecture has, or has one more.
        IncompatibleMembersError: If they differ; the message names every difference, with both values.
    """
    for name, checkpoint in members.items():
        check_complete(checkpoint, name)
    differences = find_differences(members)
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise IncompatibleMembersError(
            f"The members cannot be assembled into one sparse model; they differ in:\n{listed}\n"
            "Use members that were trained from one seed, or combine them at logits with moesaic.Mixture."
        )


def find_differences(members: Mapping[str, Checkpoint]) -> list[str]:
    """Name everything in which members differ from the first, with both values."""
    (first_name, first), *others = members.items()
    reference = _facts(first)
    differences = []
    for name, checkpoint in others:
        facts = _facts(checkpoint)
        # Sizes of unlike architectures say nothing.
        alike = facts["architecture"] == reference["architecture"]
        compared = list(reference) if alike else ["architecture"]
        differences += [
            f"{key}: {first_name} has {_show(reference[key])}, {name} has {_show(facts[key])}"
            for key in compared
            if facts[key] != reference[key]
        ]
        ours, theirs = _vocabulary(first), _vocabulary(checkpoint)
        if ours is not None and theirs is not None and ours != theirs:
            unlike = sum(ours.get(token) != index for token, index in theirs.items())
            differences.append(
                f"vocabulary: {first_name} has {len(ours)} tokens, {name} has {len(theirs)}, "
                f"{unlike} of which are not the same"
            )
    return differences


def check_complete(checkpoint: Checkpoint, name: str) -> None:
    """Make sure that a checkpoint holds just the tensors of its architecture.

    Raises:
        CheckpointError: If one is missing, is too many, or has another shape than the configuration says.
    """
    config = dense_config(checkpoint.config)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    expected = {key: tuple(value.shape) for key, value in network.named_parameters()}
    found = {key: header.shape for key, header in checkpoint.tensors.items()}
    if config.tie_word_embeddings:
        found.pop("lm_head.weight", None)  # some writers store the tied matrix twice
    for kind, names in {
        "lacks": expected.keys() - found.keys(),
        "has an extra": found.keys() - expected.keys(),
    }.items():
        if names:
            first, *more = sorted(names)
            rest = f" and {len(more)} more" if more else ""
            raise CheckpointError(
                f"{checkpoint.path}: member {name!r} {kind} tensor {first}{rest}; "
                f"{type(network).__name__} of this configuration has {len(expected)} tensors. Save the checkpoint "
                f"again."
            )
    for key, shape in expected.items():
        if found[key] != shape:
            raise CheckpointError(
                f"{checkpoint.path}: member {name!r} has tensor {key} of shape {list(found[key])}, "
                f"but its configuration says {list(shape)}. Save the checkpoint again."
            )


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    config = dense_config(checkpoint.config)
    values = {key: getattr(config, key, None) for key in _MUST_AGREE}
    dtypes = sorted({header.dtype for header in checkpoint.tensors.values()})
    return {"architecture": config.model_type} | values | {"dtype": " and ".join(dtypes)}


def _vocabulary(checkpoint: Checkpoint) -> dict[str, int] | None:
    file = checkpoint.path / "tokenizer.json"
    if not file.exists():
        return None
    vocabulary = json.loads(file.read_text(encoding="utf-8"))["model"].get("vocab")
    return vocabulary if isinstance(vocabulary, dict) else {entry[0]: index for index, entry in enumerate(vocabulary)}


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {item}" for key, item in sorted(value.items())) + "}"
    return str(value)


def names_of(members: Sequence[Checkpoint], names: Sequence[str] | None) -> list[str]:
    """Names for checkpoints: those given, or the folders' own.

    Raises:
        ValueError: If their number is not that of the members, or two are the same.
    """
    chosen = list(names) if names is not None else [checkpoint.path.name for checkpoint in members]
    if names is None and len(set(chosen)) < len(chosen):
        chosen = [f"expert-{index}" for index in range(len(members))]
    if len(chosen) != len(members) or len(set(chosen)) < len(chosen):
        raise ValueError(f"member_names must be {len(members)} different names, got {', '.join(chosen)}.")
    return chosen
