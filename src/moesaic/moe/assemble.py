"""Several dense checkpoints become one sparse checkpoint: each feed-forward layer an expert, all else shared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from moesaic.errors import CheckpointError
from moesaic.members.checkpoints import INDEX, Checkpoint, TensorHeader, read_checkpoint, read_header
from moesaic.members.folders import new_folder
from moesaic.moe.compatibility import check_compatible, check_complete, find_differences, names_of
from moesaic.moe.families import Family, dense_config, family_of, is_sparse, num_experts, sparse_config
from moesaic.moe.writing import PlannedTensor, plan_average, plan_copy, plan_values, write_safetensors

ROUTER_FILE = "model-router.safetensors"
"""The routers have a file of their own, so that fitting or training them rewrites kilobytes."""

MAX_SHARD_BYTES = 5 * 10**9
"""Size above which weights are split into several files."""

_COPIED = ("generation_config.json", "chat_template.jinja", "special_tokens_map.json", "added_tokens.json")


def assemble(
    members: Sequence[str | Path],
    output: str | Path,
    *,
    num_experts_per_tok: int = 2,
    shared: str | Path = "average",
    member_names: Sequence[str] | None = None,
    router_seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Make one sparse checkpoint out of dense ones (Branch-Train-MiX).

    Each member's feed-forward layers become the experts of the same number. Attention, norms and embeddings are
    averaged, or taken from one model; where all members have the same, as when only feed-forward layers were trained
    (FlexOlmo), the average is exactly that. Llama- and Mistral-shaped members become a Mixtral, Qwen3-shaped ones a
    Qwen3-MoE, which plain Transformers, vLLM and llama.cpp read. The routers are random; :func:`initialize_router`
    finds better ones.

    Weights are streamed from file to file, so memory stays at a few buffers of 16 MB whatever the size of the members.

    Args:
        members: Checkpoint folders or Hub names, two or more, of one architecture and size.
        output: The folder to write; it must not exist, or be empty.
        num_experts_per_tok: Experts that each token is sent to in each layer.
        shared: ``average``, the name of one of the members, or the folder of a base model.
        member_names: What errors call the members; their folders' names if not given.
        router_seed: Makes the random routers.
        max_shard_bytes: Size above which the weights are split into several files.

    Returns:
        The folder.

    Raises:
        ValueError: If there are fewer than two members, or ``num_experts_per_tok`` does not fit.
        CheckpointError: If a member is damaged, incomplete or of an architecture without a sparse form.
        IncompatibleMembersError: If the members differ; every difference is named.
        RunError: If the folder holds something else, or the disk is full; nothing is left behind then.

    Reference: Sukhbaatar et al. (2024), section 3.2, https://arxiv.org/abs/2403.07816
    """
    if len(members) < 2:
        raise ValueError(f"assemble needs two members or more, got {len(members)}.")
    checkpoints = [read_checkpoint(member) for member in members]
    names = names_of(checkpoints, member_names)
    named = dict(zip(names, checkpoints, strict=True))
    family = family_of(checkpoints[0].config["model_type"])
    check_compatible(named)
    _check_top_k(num_experts_per_tok, names, family)
    config = sparse_config(
        dense_config(checkpoints[0].config), expert_names=names, num_experts_per_tok=num_experts_per_tok
    )
    base = _base(shared, named)
    tensors = _plan(checkpoints, base, family)
    routers = plan_routers(_random_routers(config, router_seed), family, _dtype(checkpoints[0]))

    output = Path(output)
    with new_folder(output, sum(tensor.num_bytes for tensor in (*tensors, *routers))) as partial:
        write_weights(partial, tensors, routers, max_shard_bytes=max_shard_bytes)
        write_json(partial / "config.json", config)
        _copy_companions(base or checkpoints[0], partial)
    return output


def write_weights(
    folder: Path, tensors: Sequence[PlannedTensor], routers: Sequence[PlannedTensor], *, max_shard_bytes: int
) -> None:
    """Write a sparse checkpoint's weights, routers in their own file, and the index of all files."""
    shards = _split(tensors, max_shard_bytes)
    files = _file_names(len(shards))
    for file, shard in zip(files, shards, strict=True):
        write_safetensors(folder / file, shard)
    write_safetensors(folder / ROUTER_FILE, routers)
    placed = list(zip((*files, ROUTER_FILE), (*shards, routers), strict=True))
    write_json(folder / INDEX, _index(placed))


def read_router(folder: Path) -> dict[int, Float[Tensor, "expert hidden"]]:
    """The routers' weights of an assembled checkpoint, by layer."""
    stored = load_file(folder / ROUTER_FILE)
    return {int(name.split(".")[2]): weight for name, weight in stored.items()}


def write_router(folder: Path, weights: Mapping[int, Float[Tensor, "expert hidden"]]) -> None:
    """Replace the routers of an assembled checkpoint; no other file is touched.

    Args:
        folder: What :func:`assemble` wrote.
        weights: The routers' weights, by layer.

    Raises:
        ValueError: If a layer is missing or has another shape.
    """
    headers = read_header(folder / ROUTER_FILE)
    tensors = []
    for name, header in headers.items():
        layer = int(name.split(".")[2])
        given = weights.get(layer)
        if given is None or tuple(given.shape) != header.shape:
            found = "none" if given is None else f"one of shape {list(given.shape)}"
            raise ValueError(f"Layer {layer} needs a router of shape {list(header.shape)}, got {found}.")
        tensors.append(plan_values(name, given, header.dtype))
    partial = folder / f".{ROUTER_FILE}.partial"
    write_safetensors(partial, tensors)
    partial.replace(folder / ROUTER_FILE)


def save_model(network: PreTrainedModel, folder: Path) -> None:
    """Save a model as Transformers does; a sparse one with both names of its expert count in the configuration."""
    network.save_pretrained(folder)
    if is_sparse(network.config):
        config = json.loads((folder / "config.json").read_text())
        count = num_experts(network.config)
        write_json(folder / "config.json", config | {"num_experts": count, "num_local_experts": count})


def _check_top_k(num_experts_per_tok: int, names: Sequence[str], family: Family) -> None:
    if not 1 <= num_experts_per_tok <= len(names):
        raise ValueError(
            f"num_experts_per_tok must be from 1 to the number of members, {len(names)} ({', '.join(names)}), "
            f"got {num_experts_per_tok}."
        )
    if num_experts_per_tok == 1:
        raise ValueError(
            "num_experts_per_tok=1 rescales the one weight to 1, so the router cannot learn from the language-model "
            "loss. Use 2 or more."
        )


def _base(shared: str | Path, members: Mapping[str, Checkpoint]) -> Checkpoint | None:
    """The model that gives all but the experts; ``None`` for the average."""
    if shared == "average":
        return None
    if str(shared) in members:
        return members[str(shared)]
    base = read_checkpoint(shared)
    check_complete(base, str(shared))
    first = next(iter(members))
    differences = find_differences({first: members[first], "the base": base})
    if differences:
        raise CheckpointError(f"{shared}: the base does not fit the members:\n  " + "\n  ".join(differences))
    return base


def _plan(members: Sequence[Checkpoint], base: Checkpoint | None, family: Family) -> list[PlannedTensor]:
    tensors = []
    for name in members[0].tensors:
        if family.expert_tensor(name, 0) is None:
            sources = [base.tensors[name]] if base else [member.tensors[name] for member in members]
            tensors.append(plan_average(name, sources) if len(sources) > 1 else plan_copy(name, sources[0]))
            continue
        for expert, member in enumerate(members):
            new_name = family.expert_tensor(name, expert)
            assert new_name is not None
            tensors.append(plan_copy(new_name, member.tensors[name]))
    return tensors


def _random_routers(config: Mapping[str, Any], seed: int) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (config["num_experts"], config["hidden_size"])
    scale = config["initializer_range"]
    return {layer: torch.randn(shape, generator=generator) * scale for layer in range(config["num_hidden_layers"])}


def plan_routers(weights: Mapping[int, Tensor], family: Family, dtype: str) -> list[PlannedTensor]:
    """The routers' tensors under their names on disk."""
    return [plan_values(family.router_name.format(layer=layer), weight, dtype) for layer, weight in weights.items()]


def _dtype(checkpoint: Checkpoint) -> str:
    header: TensorHeader = next(iter(checkpoint.tensors.values()))
    return header.dtype


def _split(tensors: Sequence[PlannedTensor], max_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _file_names(count: int) -> list[str]:
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _index(placed: Sequence[tuple[str, Sequence[PlannedTensor]]]) -> dict[str, Any]:
    return {
        "metadata": {"total_size": sum(tensor.num_bytes for _, tensors in placed for tensor in tensors)},
        "weight_map": {tensor.name: file for file, tensors in placed for tensor in tensors},
    }


def _copy_companions(source: Checkpoint, target: Path) -> None:
    """Take over the tokenizer and the generation settings."""
    companions = [*source.path.glob("tokenizer*"), *source.path.glob("vocab*"), *source.path.glob("merges*")]
    for file in (*companions, *(source.path / name for name in _COPIED)):
        if file.is_file():
            shutil.copy2(file, target / file.name)


def write_json(path: Path, values: Any) -> None:
    """Write JSON as checkpoints have it."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, default=str) + "\n")
