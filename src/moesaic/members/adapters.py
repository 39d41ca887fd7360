"""LoRA adapters beside the frozen layers of one model, through PEFT: add them, choose among them, merge them."""

from __future__ import annotations

import copy
import importlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama-like transformer layer: attention and feed-forward."""

ADAPTER_SETTINGS = frozenset(
    {
        "alpha_pattern",
        "exclude_modules",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    }
)
"""What shapes an adapter, by PEFT's names."""


def add_adapter(
    backbone: PreTrainedModel,
    name: str,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] | None = TARGET_MODULES,
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Put a new adapter beside a model's linear layers, in place: ``W x`` becomes ``W x + alpha / rank * B A x``.

    It begins as no change at all, since ``B`` is zero. Train it with everything else frozen: by
    :func:`moesaic.training.fit` with the learning-rate scales of :func:`adapter_only`.

    Args:
        backbone: The model; it may have other adapters. Called by itself, it runs with the one added last.
        name: What the adapter is called: letters, digits, ``-`` and ``_``.
        rank: Rows of ``A`` and columns of ``B``.
        alpha: The adapter's scale, which is divided by the rank.
        target_modules: Names of the linear layers that get one, or ends of them: ``q_proj``, ``mlp.up_proj``; ``None``
            for all but the output layer.
        dropout: Share of the adapter's inputs that are dropped while it is trained.
        seed: Makes ``A``.

    Raises:
        ValueError: If the rank is below 1, the backbone has no such linear layer, or the name is taken or no name.
        ImportError: If PEFT is not installed.

    Reference: Hu et al. (2021), LoRA, section 4.1, https://arxiv.org/abs/2106.09685
    """
    if rank < 1:
        raise ValueError(f"rank must be 1 or more, got {rank}. An adapter of rank 8 is a common beginning.")
    check_name(name, adapter_names(backbone))
    targets = check_targets(backbone, target_modules)
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": sorted(targets)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter(backbone, name, settings)


def adapter_only(name: str = "*") -> dict[str, float]:
    """Learning-rate scales that train one adapter, or all of them, and nothing else.

    Example:
        >>> adapter_only("news")
        {'*': 0.0, '*.lora_A.news.*': 1.0, '*.lora_B.news.*': 1.0}
    """
    return {"*": 0.0, f"*.lora_A.{name}.*": 1.0, f"*.lora_B.{name}.*": 1.0}


def embedding_scales(backbone: PreTrainedModel) -> dict[str, float]:
    """Learning-rate scales that train the embeddings and the output layer too; they stand after :func:`adapter_only`.

    An adapter changes neither, and how sure a model can be of a token is bounded by the size of its output layer: on a
    backbone that was trained briefly, adapters alone learn little, whatever their rank and learning rate. A backbone
    whose embeddings were trained is no longer the one that other adapters are for; merge it.

    Example:
        >>> from moesaic.testing import tiny_causal_lm
        >>> embedding_scales(tiny_causal_lm())
        {'model.embed_tokens.weight': 1.0, 'lm_head.weight': 1.0}
    """
    layers = (backbone.get_input_embeddings(), backbone.get_output_embeddings())
    tensors = {id(tensor) for layer in layers for tensor in layer.parameters()}
    return {name: 1.0 for name, tensor in backbone.named_parameters() if id(tensor) in tensors}


def adapter_names(backbone: nn.Module) -> list[str]:
    """The adapters that a model has, in the order in which they came."""
    return list(getattr(backbone, "peft_config", {}))


def adapter_settings(backbone: nn.Module, name: str) -> dict[str, Any]:
    """What makes an adapter of this shape again, as JSON values.

    Raises:
        ValueError: If there is no such adapter.
    """
    _check_there(name, adapter_names(backbone))
    settings: Any = backbone.peft_config
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in settings[name].to_dict().items()
        if key in ADAPTER_SETTINGS
    }


def merge_adapter(backbone: PreTrainedModel, name: str) -> PreTrainedModel:
    """Make an ordinary model of a backbone and one adapter: ``W + alpha / rank * B A`` takes the place of ``W``.

    The backbone stays what it is. The result is saved by ``save_pretrained`` like any other, so that adapters of one
    backbone become the experts of a sparse checkpoint (:func:`moesaic.assemble`).

    Raises:
        ValueError: If there is no such adapter.
    """
    _check_there(name, adapter_names(backbone))
    merged = copy.deepcopy(backbone)
    for place, layer in list(_adapted_layers(merged)):
        layer.merge(adapter_names=[name])
        merged.set_submodule(place, layer.get_base_layer())
    del merged.peft_config
    return merged.requires_grad_(True)


@contextmanager
def adapters_by_row(backbone: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within this, each row of a batch is read with its own adapter: the frozen layers multiply all rows at once.

    Raises:
        ValueError: While the backbone runs, if rows have different adapters and a layer reads them in another shape.
    """

    def choose(layer: nn.Module, inputs: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, keywords | {"adapter_names": _names_of_rows(layer, inputs[0], names)}

    hooks = [layer.register_forward_pre_hook(choose, with_kwargs=True) for _, layer in _adapted_layers(backbone)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _names_of_rows(layer: nn.Module, inputs: Tensor, names: Sequence[str]) -> list[str]:
    """The adapter of each row that a layer reads; some layers read all tokens as one row each."""
    if len(inputs) == len(names):
        return list(names)
    if len(set(names)) == 1:
        return list(names[:1]) * len(inputs)
    if inputs.dim() == 2 and len(inputs) % len(names) == 0:
        return [name for name in names for _ in range(len(inputs) // len(names))]
    raise ValueError(
        f"{type(layer).__name__} reads {tuple(inputs.shape)} where the batch has {len(names)} rows, so rows cannot "
        "have different adapters here. Merge them: moesaic.members.merge_adapter(backbone, name)."
    )


def inject_adapter(backbone: nn.Module, name: str, settings: Mapping[str, Any]) -> None:
    """Make an adapter's layers, with new weights.

    Args:
        backbone: The model.
        name: The adapter.
        settings: What :func:`adapter_settings` gives.

    Raises:
        ImportError: If PEFT is not installed.
    """
    peft = import_peft()
    with warnings.catch_warnings():
        # A second adapter is what is wanted here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        peft.inject_adapter_in_model(peft.LoraConfig(**settings), backbone, name)


def check_targets(backbone: PreTrainedModel, target_modules: Sequence[str] | None) -> Sequence[str]:
    """The layers that are to get an adapter: what is given, or the names of all that can.

    Raises:
        ValueError: If some target names no linear layer within the model's layers, or there is no target.
    """
    places = linear_places(backbone)
    if not places:
        raise ValueError(
            f"target_modules: {type(backbone).__name__} has no linear layer that can have an adapter. Train it whole."
        )
    if target_modules is None:
        return _last_names(places)
    names = ", ".join(_last_names(places))
    if not target_modules:
        raise ValueError(f"target_modules must name at least one linear layer; there are {names}.")
    for target in target_modules:
        if not any(place == target or place.endswith(f".{target}") for place in places):
            raise ValueError(
                f"target_modules: {type(backbone).__name__} has no linear layer called {target!r}; there are {names}. "
                "The embeddings and the output layer take no adapter."
            )
    return target_modules


def import_peft() -> Any:
    """PEFT, where it is installed.

    Raises:
        ImportError: If it is not.
    """
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError:
        raise ImportError(
            "Adapters need PEFT, which is not installed. Install it by: pip install 'moesaic[adapters]'"
        ) from None


def check_name(name: str, taken: Sequence[str]) -> None:
    """Refuse a name that is none, or that another adapter has.

    Raises:
        ValueError: If it is one.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"An adapter's name has letters, digits, - and _ only, got {name!r}. Give it another name.")
    if name in taken:
        raise ValueError(f"The backbone has an adapter called {name!r} already. Give the new one its own name.")


def _check_there(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise ValueError(f"The backbone has no adapter called {name!r}; there are {', '.join(names) or 'none'}.")


def _adapted_layers(backbone: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that PEFT put in the place of linear ones, by where they are."""
    if adapter_names(backbone):
        kind = import_peft().tuners.lora.LoraLayer
        for place, layer in backbone.named_modules():
            if isinstance(layer, kind):
                yield place, layer


def adapter_tensors(backbone: nn.Module, name: str) -> dict[str, Tensor]:
    """The matrices of an adapter, by where they are."""
    ends = (f".lora_A.{name}.weight", f".lora_B.{name}.weight")
    return {place: tensor for place, tensor in backbone.named_parameters() if place.endswith(ends)}


def linear_places(backbone: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers that can have an adapter, by where they are; the output layer is none of them."""
    adapted = dict(_adapted_layers(backbone))
    head = backbone.get_output_embeddings()
    places = {}
    for place, layer in backbone.named_modules():
        inside = any(place.startswith(f"{outer}.") for outer in adapted)
        base = layer.get_base_layer() if place in adapted else layer
        if isinstance(base, nn.Linear) and base is not head and not inside:
            places[place] = base
    return places


def _last_names(places: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(place.rpartition(".")[2] for place in places))
