"""Experts come and go: a sparse checkpoint gets one more, a better one, or one less, and nothing else changes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from moesaic.data import Data, Source, name_sources, pack_documents
from moesaic.errors import CheckpointError, DataError, IncompatibleMembersError
from moesaic.members import load_network
from moesaic.members.checkpoints import INDEX, Checkpoint, TensorHeader, read_checkpoint
from moesaic.members.folders import changed_folder, new_folder
from moesaic.moe.assemble import MAX_SHARD_BYTES, plan_routers, write_json, write_router, write_weights
from moesaic.moe.card import CARD, card_opening, change_card
from moesaic.moe.compatibility import check_complete, find_differences
from moesaic.moe.families import FAMILIES, Family, donor_config, family_of, sparse_family_of
from moesaic.moe.router_init import extend_router, initialize_router
from moesaic.moe.writing import PlannedTensor, plan_copy

RouterChange = Literal["refit", "keep"]
"""What becomes of the routers: all rows are fitted again, or those of the experts that stay are kept."""

ROUTER_TOKENS = 8192
"""Tokens of each expert's text that routers are fitted on."""

_SEQUENCE_LENGTH = 256
"""Tokens that are read at once when routers are fitted, at most."""


def add_expert(
    mixture: str | Path,
    expert: str | Path,
    output: str | Path | None = None,
    *,
    texts: Data,
    name: str | None = None,
    router: RouterChange = "keep",
    caution: float = 1.0,
    router_tokens: int = ROUTER_TOKENS,
) -> Path:
    """Give a sparse checkpoint one more expert: the feed-forward layers of a dense checkpoint.

    The new expert comes last. Attention, norms and embeddings stay those of the mixture, so that the other experts find
    what they know; the new one does best where it was trained from the same seed.

    Weights are streamed from file to file. Whatever else lies in the folder is taken over as it is, but for a model
    card that moesaic wrote: it names the experts that there are now, and what was changed since its table was measured.

    Args:
        mixture: A sparse checkpoint that :func:`moesaic.assemble` made, trained since or not.
        expert: A dense checkpoint of the donors' architecture and sizes, folder or Hub name.
        output: The folder to write; it must not exist, or be empty. Without it, ``mixture`` itself is changed: a hidden
            sibling takes its place when whole.
        texts: Text of every expert's domain, by the experts' names, the new one's too.
        name: What the new expert is called; its folder's name if not given.
        router: ``keep`` leaves the rows of the others as they are and fits the new one's between them
            (:func:`extend_router`); ``refit`` fits the ridge router anew for all experts, which loses more, above all
            where the routers have been trained.
        caution: How many times as much the domains of the others count where the new row is fitted between theirs. More
            keeps what the mixture had, and lets the new expert do less; only ``keep`` uses it.
        router_tokens: Tokens of each text that are read, from its beginning.

    Returns:
        The folder.

    Raises:
        ValueError: If the name is taken, ``router`` is neither, or ``caution`` is not positive or given to ``refit``.
        DataError: If an expert has no text.
        CheckpointError: If a checkpoint is damaged, or ``mixture`` is no such sparse checkpoint.
        IncompatibleMembersError: If the new expert differs from the others; every difference is named.
        RunError: If ``output`` holds something else, or the disk is full; nothing is changed then.
    """
    if router == "refit" and caution != 1:
        raise ValueError(f"router='refit' treats all experts the same, got caution={caution:g}. Use router='keep'.")
    before = _read(mixture)
    name = name or Path(expert).name
    if name in before.names:
        raise ValueError(f"{mixture}: an expert is already called {name!r}. Give another name, or replace that expert.")
    feed_forward = _read_expert(expert, before, name)
    # The new row is a place holder: both ways of fitting set it.
    routers = {layer: torch.cat([rows, rows.mean(dim=0, keepdim=True)]) for layer, rows in before.routers.items()}
    after = replace(before, experts=[*before.experts, feed_forward], names=[*before.names, name], routers=routers)
    fit = _fitting(after, router, texts, router_tokens, keeping=partial(extend_router, caution=caution))
    return _write(before, after, mixture, output, fit, f"`{name}` was added")


def replace_expert(
    mixture: str | Path,
    name: str,
    expert: str | Path,
    output: str | Path | None = None,
    *,
    texts: Data | None = None,
    router: RouterChange = "keep",
    router_tokens: int = ROUTER_TOKENS,
) -> Path:
    """Put a better expert into the place of one that a sparse checkpoint has; its name stays.

    Args:
        mixture: A sparse checkpoint that :func:`moesaic.assemble` made, trained since or not.
        name: The expert to replace.
        expert: A dense checkpoint of the donors' architecture and sizes, folder or Hub name.
        output: The folder to write; without it, ``mixture`` itself is changed, as :func:`add_expert` does it.
        texts: Text of every expert's domain, by the experts' names; only ``refit`` reads it.
        router: ``keep`` sends every token where it went before; ``refit`` fits the ridge router anew for all experts.
        router_tokens: Tokens of each text that are read, from its beginning.

    Returns:
        The folder.

    Raises:
        ValueError: If no expert has that name, ``router`` is neither, or texts are given to ``keep`` or not to
            ``refit``.
        DataError: If an expert has no text.
        CheckpointError: If a checkpoint is damaged, or ``mixture`` is no such sparse checkpoint.
        IncompatibleMembersError: If the new expert differs from the others; every difference is named.
        RunError: If ``output`` holds something else, or the disk is full; nothing is changed then.
    """
    before = _read(mixture)
    position = _position(before, mixture, name)
    experts = list(before.experts)
    experts[position] = _read_expert(expert, before, name)
    after = replace(before, experts=experts)
    fit = _fitting(after, router, texts, router_tokens)
    return _write(before, after, mixture, output, fit, f"another expert took the place of `{name}`")


def remove_expert(
    mixture: str | Path,
    name: str,
    output: str | Path | None = None,
    *,
    texts: Data | None = None,
    router: RouterChange = "keep",
    router_tokens: int = ROUTER_TOKENS,
) -> Path:
    """Take an expert out of a sparse checkpoint: its tensors are in none of the files.

    Where fewer experts are left than each token is sent to, ``num_experts_per_tok`` is lowered, with a warning.

    Args:
        mixture: A sparse checkpoint that :func:`moesaic.assemble` made, trained since or not.
        name: The expert to remove.
        output: The folder to write; without it, ``mixture`` itself is changed, as :func:`add_expert` does it.
        texts: Text of the domain of every expert that stays, by their names; only ``refit`` reads it.
        router: ``keep`` leaves the rows of the other experts as they are; ``refit`` fits the ridge router anew.
        router_tokens: Tokens of each text that are read, from its beginning.

    Returns:
        The folder.

    Raises:
        ValueError: If no expert has that name or it is the only one, ``router`` is neither, or texts are given to
            ``keep`` or not to ``refit``.
        DataError: If an expert has no text.
        CheckpointError: If the checkpoint is damaged, or no such sparse checkpoint.
        RunError: If ``output`` holds something else, or the disk is full; nothing is changed then.
    """
    before = _read(mixture)
    position = _position(before, mixture, name)
    if len(before.names) == 1:
        raise ValueError(
            f"{mixture}: {name!r} is the only expert, and a mixture needs one. Add another first, or replace this one."
        )
    left = [index for index in range(len(before.names)) if index != position]
    after = replace(
        before,
        experts=[before.experts[index] for index in left],
        names=[before.names[index] for index in left],
        routers={layer: rows[left] for layer, rows in before.routers.items()},
    )
    fit = _fitting(after, router, texts, router_tokens)
    top_k = before.checkpoint.config["num_experts_per_tok"]
    if top_k > len(left):
        warnings.warn(
            f"{mixture}: num_experts_per_tok is lowered from {top_k} to {len(left)}, the number of experts that are "
            f"left ({', '.join(after.names)}).",
            stacklevel=2,
        )
    return _write(before, after, mixture, output, fit, f"`{name}` was removed")


_Expert = Mapping[str, TensorHeader]
"""An expert's matrices, by the names that they have in a dense checkpoint."""

_Batches = Sequence[Sequence[Int[Tensor, "_batch _position"]]]
_Fit = Callable[[Path], None]


@dataclass(frozen=True)
class _Mixture:
    """A sparse checkpoint taken apart; nothing but the routers is in memory.

    Attributes:
        checkpoint: What was read.
        family: Its architecture.
        shared: All tensors that belong to no expert and no router, by name.
        experts: The experts' matrices.
        names: The experts' names, in the same order.
        routers: The routers' weights, by layer.
        router_dtype: Their type on disk, as safetensors spells it.
    """

    checkpoint: Checkpoint
    family: Family
    shared: Mapping[str, TensorHeader]
    experts: Sequence[_Expert]
    names: Sequence[str]
    routers: Mapping[int, Float[Tensor, "expert hidden"]]
    router_dtype: str

    def plan(self) -> list[PlannedTensor]:
        """All tensors but the routers, experts numbered in their order."""
        planned = [plan_copy(name, header) for name, header in self.shared.items()]
        for number, expert in enumerate(self.experts):
            for donor_name, header in expert.items():
                name = self.family.expert_tensor(donor_name, number)
                assert name is not None
                planned.append(plan_copy(name, header))
        return planned

    def config(self) -> dict[str, Any]:
        """What ``config.json`` says of these experts."""
        count = len(self.names)
        return dict(self.checkpoint.config) | {
            "num_experts": count,
            "num_local_experts": count,
            "num_experts_per_tok": min(self.checkpoint.config["num_experts_per_tok"], count),
            "expert_names": list(self.names),
        }

    def as_dense(self, model_type: str) -> Checkpoint:
        """The dense checkpoint that the first expert would be, with all that the experts share."""
        config = donor_config(self.checkpoint.config, model_type)
        return Checkpoint(self.checkpoint.path, config, {**self.shared, **self.experts[0]})


def _read(path: str | Path) -> _Mixture:
    checkpoint = read_checkpoint(path)
    model_type = checkpoint.config.get("model_type", "")
    family = sparse_family_of(model_type)
    if family is None:
        known = ", ".join(str(family.config_class.model_type) for family in FAMILIES)
        raise CheckpointError(
            f"{path}: a checkpoint of type {model_type!r} has no experts that could be exchanged. Give a sparse "
            f"checkpoint that moesaic.assemble made, of type {known}."
        )
    num_experts = checkpoint.config["num_local_experts" if "num_local_experts" in checkpoint.config else "num_experts"]
    experts: list[dict[str, TensorHeader]] = [{} for _ in range(num_experts)]
    router_names = {
        family.router_name.format(layer=layer): layer for layer in range(checkpoint.config["num_hidden_layers"])
    }
    shared, routers = {}, {}
    for name, header in checkpoint.tensors.items():
        donor = family.donor_tensor(name)
        if donor is not None:
            donor_name, number = donor
            experts[number][donor_name] = header
        elif name in router_names:
            routers[router_names[name]] = header
        else:
            shared[name] = header
    if len(routers) < len(router_names) or any(len(expert) != 3 * len(router_names) for expert in experts):
        raise CheckpointError(
            f"{path}: a layer lacks its router or a matrix of an expert; {num_experts} experts in {len(router_names)} "
            "layers are what config.json says. Give a checkpoint with one router in each layer and one tensor for each "
            "matrix of each expert, as moesaic.assemble writes it."
        )
    names = checkpoint.config.get("expert_names") or [f"expert {number}" for number in range(num_experts)]
    weights = {layer: _load(family.router_name.format(layer=layer), routers[layer]) for layer in sorted(routers)}
    return _Mixture(checkpoint, family, shared, experts, names, weights, routers[0].dtype)


def _load(name: str, header: TensorHeader) -> Tensor:
    with safe_open(header.file, framework="pt") as file:
        return file.get_tensor(name)


def _position(mixture: _Mixture, path: str | Path, name: str) -> int:
    if name not in mixture.names:
        raise ValueError(f"{path}: no expert is called {name!r}; there are {', '.join(mixture.names)}.")
    return list(mixture.names).index(name)


def _read_expert(path: str | Path, mixture: _Mixture, name: str) -> _Expert:
    """The feed-forward layers of a dense checkpoint that fits the mixture.

    Raises:
        CheckpointError: If it is incomplete.
        IncompatibleMembersError: If it differs from the mixture's experts; every difference is named.
    """
    donor = read_checkpoint(path)
    model_type = donor.config.get("model_type", "")
    if family_of(model_type) is not mixture.family:
        types = " or ".join(mixture.family.dense_types)
        differences = [f"architecture: the mixture's experts are of {types}, {name} is of {model_type}"]
    else:
        check_complete(donor, name)
        differences = find_differences({"the mixture": mixture.as_dense(model_type), name: donor})
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise IncompatibleMembersError(
            f"{path}: this cannot become an expert of {mixture.checkpoint.path}; they differ in:\n{listed}\n"
            "Use a model that was trained from the same seed, or combine both at logits with moesaic.Mixture."
        )
    return {tensor: header for tensor, header in donor.tensors.items() if mixture.family.expert_tensor(tensor, 0)}


def _fitting(
    mixture: _Mixture,
    router: RouterChange,
    texts: Data | None,
    num_tokens: int,
    keeping: Callable[[Any, _Batches], dict[int, Tensor]] | None = None,
) -> _Fit | None:
    """What has to be done to the routers of a written checkpoint; its text is read now, so that errors come early.

    Args:
        mixture: What will be written.
        router: What the caller wants.
        texts: Text of each expert.
        num_tokens: Tokens of each that are read.
        keeping: Fits what ``keep`` does not keep; ``None`` where it keeps all.
    """
    if router not in get_args(RouterChange):
        raise ValueError(f"router must be {' or '.join(get_args(RouterChange))}, got {router!r}.")
    if router == "keep" and keeping is None and texts is not None:
        raise ValueError("router='keep' keeps all rows here, so texts would not be read. Leave them out, or refit.")
    solve = partial(initialize_router, method="ridge") if router == "refit" else keeping
    if solve is None or len(mixture.names) == 1:  # a single expert is always chosen
        return None
    if texts is None:
        raise ValueError(
            f"router='refit' needs text of every expert's domain ({', '.join(mixture.names)}), got none. Give texts, "
            "or router='keep'."
        )
    batches = _read_texts(mixture, name_sources(texts), num_tokens)

    def fit(folder: Path) -> None:
        write_router(folder, solve(load_network(folder), batches))

    return fit


def _read_texts(mixture: _Mixture, texts: Mapping[str, Source], num_tokens: int) -> _Batches:
    if set(texts) != set(mixture.names):
        raise DataError(
            f"Routers are fitted on text of every expert's domain: {', '.join(mixture.names)}; there is text for "
            f"{', '.join(texts)}. Give one text for each expert, by its name."
        )
    if not (mixture.checkpoint.path / "tokenizer_config.json").exists():
        raise CheckpointError(
            f"{mixture.checkpoint.path}: there is no tokenizer, so no text can be read. Save the tokenizer there."
        )
    tokenizer = AutoTokenizer.from_pretrained(mixture.checkpoint.path)
    length = min(_SEQUENCE_LENGTH, mixture.checkpoint.config["max_position_embeddings"])
    return [list(_batches(name, texts[name], tokenizer, num_tokens, length)) for name in mixture.names]


def _batches(
    name: str, text: Source, tokenizer: PreTrainedTokenizerBase, num_tokens: int, length: int
) -> Iterator[Int[Tensor, "batch position"]]:
    pieces: list[Tensor] = []
    for document in text.documents():
        pieces.append(pack_documents([document], tokenizer).tokens)
        if sum(map(len, pieces)) >= num_tokens:
            break
    if not pieces:
        raise DataError(f"The text of expert {name!r} has no document. Give some text of its domain.")
    tokens = torch.cat(pieces)[:num_tokens].long()
    for row in tokens.split(length):
        yield row.unsqueeze(0)


def _write(
    before: _Mixture, after: _Mixture, path: str | Path, output: str | Path | None, fit: _Fit | None, change: str
) -> Path:
    tensors = after.plan()
    routers = plan_routers(after.routers, after.family, after.router_dtype)
    needed_bytes = sum(tensor.num_bytes for tensor in (*tensors, *routers))
    folder = Path(path) if output is None else Path(output)
    with _target(before.checkpoint, folder, output is None, needed_bytes) as unfinished:
        _copy_other_files(before.checkpoint.path, unfinished)
        write_weights(unfinished, tensors, routers, max_shard_bytes=MAX_SHARD_BYTES)
        write_json(unfinished / "config.json", after.config())
        _update_card(unfinished / CARD, change, before, after)
        if fit is not None:
            fit(unfinished)
    return folder


def _target(checkpoint: Checkpoint, folder: Path, is_in_place: bool, needed_bytes: int) -> AbstractContextManager[Path]:
    if checkpoint.path.resolve() in folder.resolve().parents:
        raise ValueError(f"{folder}: this lies within the mixture that is read. Give a folder outside of it.")
    if not is_in_place:
        return new_folder(folder, needed_bytes)
    if checkpoint.path != folder:
        raise ValueError(
            f"{folder}: a run or a model of the Hub is not changed in place. Give output, a new folder for the changed "
            "mixture."
        )
    return changed_folder(folder, needed_bytes)


def _copy_other_files(source: Path, target: Path) -> None:
    weights = shutil.ignore_patterns("*.safetensors", INDEX)
    shutil.copytree(source, target, ignore=weights, dirs_exist_ok=True)


def _update_card(card: Path, change: str, before: _Mixture, after: _Mixture) -> None:
    if card.exists():
        openings = [card_opening(one.names, one.config()["num_experts_per_tok"]) for one in (before, after)]
        card.write_text(change_card(card.read_text(encoding="utf-8"), change, *openings), encoding="utf-8")
