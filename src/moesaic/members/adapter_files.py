"""LoRA adapters as files: ``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from moesaic.errors import CheckpointError, IncompatibleMembersError
from moesaic.members.adapters import (
    ADAPTER_SETTINGS,
    adapter_names,
    adapter_settings,
    adapter_tensors,
    check_name,
    import_peft,
    inject_adapter,
    linear_places,
)
from moesaic.members.checkpoints import TensorHeader, read_header

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ORIGIN = "backbone.json"

_PREFIX = "base_model.model."
# What PEFT notes of an adapter that changes nothing in what it computes.
_NOTES = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "init_lora_weights",
        "loftq_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
    }
)


def save_adapter(backbone: PreTrainedModel, name: str, folder: str | Path) -> Path:
    """Write an adapter as PEFT does: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Beside them stands a fingerprint of the backbone, so that the adapter is not put on another by mistake.

    Raises:
        ValueError: If there is no such adapter.
    """
    folder = Path(folder)
    task_type = "SEQ_2_SEQ_LM" if backbone.config.is_encoder_decoder else "CAUSAL_LM"
    settings = {"peft_type": "LORA", "task_type": task_type, "base_model_name_or_path": backbone.name_or_path or None}
    settings |= adapter_settings(backbone, name)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        f"{_PREFIX}{place.removesuffix(f'.{name}.weight')}.weight": tensor.detach().contiguous()
        for place, tensor in adapter_tensors(backbone, name).items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / ORIGIN).write_text(json.dumps(_describe_backbone(backbone), indent=2) + "\n", encoding="utf-8")
    return folder


def load_adapter(backbone: PreTrainedModel, folder: str | Path, *, name: str | None = None) -> str:
    """Put a saved adapter beside a model's layers, in place; one that PEFT wrote will do.

    Only JSON and safetensors are read. Names and shapes are compared before anything is changed.

    Args:
        backbone: The model for which the adapter was trained.
        folder: What :func:`save_adapter` or PEFT wrote.
        name: What to call it; the folder's name if not given.

    Returns:
        The adapter's name.

    Raises:
        CheckpointError: If the folder holds no LoRA adapter that can be read, or asks for what moesaic does not do.
        IncompatibleMembersError: If the adapter belongs to another backbone.
        ValueError: If the name is taken.
        ImportError: If PEFT is not installed.
    """
    folder = Path(folder)
    name = folder.name if name is None else name
    check_name(name, adapter_names(backbone))
    settings = _read_settings(folder)
    headers = read_header(folder / WEIGHTS)
    targets = _check_fits(folder, headers, backbone)
    inject_adapter(backbone, name, settings | {"target_modules": targets})
    weights = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for place, tensor in adapter_tensors(backbone, name).items():
            saved = weights[f"{_PREFIX}{place.removesuffix(f'.{name}.weight')}.weight"]
            if saved.shape != tensor.shape:
                raise CheckpointError(
                    f"{folder}: {place} has the shape {tuple(saved.shape)}, and by {SETTINGS} it should be "
                    f"{tuple(tensor.shape)}. Copy both files again from where the adapter was trained."
                )
            tensor.copy_(saved)
    return name


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not a whole model."""
    return (folder / SETTINGS).exists() and not (folder / "config.json").exists()


def named_backbone(folder: Path) -> str | None:
    """The model that an adapter's files name as the one that it is for; ``None`` if they name none."""
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return settings.get("base_model_name_or_path") or None


def _read_settings(folder: Path) -> dict[str, Any]:
    """What an adapter's JSON says, as far as it shapes the adapter."""
    if not (folder / SETTINGS).exists():
        raise CheckpointError(
            f"{folder}: there is no {SETTINGS}, so this is no adapter. Give a folder that PEFT wrote."
        )
    if not (folder / WEIGHTS).exists():
        pickle = (folder / "adapter_model.bin").exists()
        raise CheckpointError(
            f"{folder}: there is no {WEIGHTS}"
            + (", and adapter_model.bin is a pickle, which can run code when it is read" if pickle else "")
            + ". Save the adapter with PEFT's save_pretrained, which writes safetensors."
        )
    try:
        described = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(f"{folder}: {SETTINGS} is damaged: it is no JSON. Copy it again.") from None
    if described.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder}: peft_type is {described.get('peft_type')!r}, and moesaic reads LORA only.")
    plain = import_peft().LoraConfig().to_dict()
    for key, value in described.items():
        if key not in ADAPTER_SETTINGS | _NOTES and value and value != plain.get(key):
            raise CheckpointError(
                f"{folder}: {SETTINGS} asks for {key}={value!r}, which moesaic does not do. Merge the adapter with "
                "PEFT (merge_and_unload), and use the result as an ordinary checkpoint."
            )
    return {key: value for key, value in described.items() if key in ADAPTER_SETTINGS and value is not None}


def _check_fits(folder: Path, headers: Mapping[str, TensorHeader], backbone: PreTrainedModel) -> list[str]:
    """Compare an adapter with the model that it is for; returns the layers that it adapts."""
    places = linear_places(backbone)
    differences, targets = [], []
    for tensor, header in headers.items():
        place, _, part = tensor.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if part not in ("lora_A", "lora_B"):
            raise CheckpointError(f"{folder}: {tensor} is no part of a LoRA adapter that moesaic reads.")
        if place not in places:
            differences.append(f"it adapts {place}, which this backbone has not as a linear layer")
            continue
        targets.append(place)
        side, given = ("inputs", header.shape[1]) if part == "lora_A" else ("outputs", header.shape[0])
        own = places[place].in_features if part == "lora_A" else places[place].out_features
        if given != own:
            differences.append(f"{place} has {given} {side} there and {own} here")
    differences += _differences_of_origin(folder, backbone)
    if differences:
        more = f", and {len(differences) - 1} differences more" if len(differences) > 1 else ""
        raise IncompatibleMembersError(
            f"{folder}: this adapter was trained on another backbone: {differences[0]}{more}. Load it on the model "
            f"that {SETTINGS} names ({named_backbone(folder) or 'it names none'}), or train one for this backbone."
        )
    return list(dict.fromkeys(targets))


def _differences_of_origin(folder: Path, backbone: PreTrainedModel) -> list[str]:
    if not (folder / ORIGIN).exists():
        return []
    there, here = json.loads((folder / ORIGIN).read_text(encoding="utf-8")), _describe_backbone(backbone)
    return [f"its {key} is {there.get(key)} there and {here[key]} here" for key in here if there.get(key) != here[key]]


def _describe_backbone(backbone: PreTrainedModel) -> dict[str, str]:
    """What tells a backbone from others: its kind, and a hash over some values of each tensor, whatever their type."""
    digest = hashlib.sha256()
    own = {place: tensor for place, tensor in backbone.named_parameters() if ".lora_" not in place}
    for place in sorted(own, key=_plain):
        values = own[place].detach().flatten()
        some = torch.cat([values[:64], values[-64:]]).to("cpu", torch.bfloat16)
        digest.update(f"{_plain(place)} {tuple(own[place].shape)}".encode())
        digest.update(some.view(torch.int16).numpy().tobytes())
    return {"model_type": str(backbone.config.model_type), "fingerprint": digest.hexdigest()[:16]}


def _plain(place: str) -> str:
    return place.replace(".base_layer.", ".")
