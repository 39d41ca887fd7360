"""Many small members of one shape, run as one model: what takes the time in each is not arithmetic."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from moesaic.members.layer_rules import has_rules, run_layer

Execution = Literal["stacked", "loop"]

LARGEST_STACKED = 60_000_000
"""Multiply-adds of an average layer, for one member and batch, up to which stacking pays."""


class StackedMembers(nn.Module):
    """Members of one shape as one model: a module like each of them, its tensors with a leading member axis.

    Train it with the *sum* of the members' losses, not the mean. A member's loss has no gradient for the others, so
    each is trained as it would be by itself by any optimizer that works element by element, as Adam does. Clipping the
    norm of all gradients together does not: it scales each member by what the others do.

    Layers run by rules (:mod:`moesaic.members.layer_rules`), those that have none under ``torch.func.vmap``.

    Args:
        modules: The members; they are copied. Each maps one tensor to one tensor.

    Attributes:
        num_members: Number of members.
        members: The stacked module.

    Raises:
        ValueError: If there is no member, or two differ in their tensors, layers, settings or modes.

    Example:
        >>> members = StackedMembers([nn.Linear(3, 2), nn.Linear(3, 2)])
        >>> members(torch.zeros(5, 3)).shape
        torch.Size([2, 5, 2])
        >>> {name: tuple(tensor.shape) for name, tensor in members.state_dict().items()}
        {'members.weight': (2, 2, 3), 'members.bias': (2, 2)}
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        _check_alike(modules)
        self.num_members = len(modules)
        columns = zip(*(_named_tensors(module).values() for module in modules), strict=True)
        self.members = _copy_with(
            modules[0], {id(tensors[0]): _like(tensors[0], torch.stack(tensors)) for tensors in columns}
        )

    def forward(self, inputs: Shaped[Tensor, "*axes"], *, per_member: bool = False) -> Shaped[Tensor, "member ..."]:
        """Run every member.

        Args:
            inputs: What all members read, ``(batch, ...)``; with ``per_member`` what each reads,
                ``(member, batch, ...)``: bagged members have rows of their own.
            per_member: Whether each member has inputs of its own.

        Returns:
            The outputs, ``(member, batch, ...)``.

        Raises:
            ValueError: If there are not as many inputs as members, or a layer cannot be run stacked.
        """
        return run_layer(self.members, _inputs_of_members(inputs, self.num_members, per_member))

    def unstack(self) -> list[nn.Module]:
        """The members as they are now, as modules of their own."""
        tensors = _named_tensors(self.members).values()
        return [
            _copy_with(self.members, {id(tensor): _like(tensor, tensor[number].clone()) for tensor in tensors})
            for number in range(self.num_members)
        ]

    def extra_repr(self) -> str:
        """The number of members; the layers below are those of each."""
        return f"num_members={self.num_members}"


class LoopedMembers(nn.Module):
    """Members of any shape one after the other, called like :class:`StackedMembers`.

    Args:
        modules: The members; they are copied.

    Raises:
        ValueError: If there is no member.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        _check_any(modules)
        self.num_members = len(modules)
        self.members = nn.ModuleList(copy.deepcopy(module) for module in modules)

    def forward(self, inputs: Shaped[Tensor, "*axes"], *, per_member: bool = False) -> Shaped[Tensor, "member ..."]:
        """Run every member; see :meth:`StackedMembers.forward`."""
        rows = _inputs_of_members(inputs, self.num_members, per_member)
        return torch.stack([member(row) for member, row in zip(self.members, rows, strict=True)])

    def unstack(self) -> list[nn.Module]:
        """The members as they are now, as modules of their own."""
        return [copy.deepcopy(member) for member in self.members]


def join_members(
    modules: Sequence[nn.Module],
    *,
    batch_shape: Sequence[int] = (32,),
    execution: Execution | Literal["auto"] = "auto",
) -> StackedMembers | LoopedMembers:
    """Make one module that runs all members.

    Args:
        modules: The members; they are copied.
        batch_shape: The batches to come; see :func:`choose_execution`.
        execution: ``stacked``, ``loop``, or ``auto`` for what :func:`choose_execution` says.

    Raises:
        ValueError: If ``execution`` is none of these, or members that are to be stacked differ.

    Example:
        >>> type(join_members([nn.Linear(64, 64) for _ in range(16)])).__name__
        'StackedMembers'
    """
    check_execution(execution)
    chosen = choose_execution(modules, batch_shape) if execution == "auto" else execution
    return StackedMembers(modules) if chosen == "stacked" else LoopedMembers(modules)


def check_execution(execution: str) -> None:
    """Refuse words that do not say how members are run.

    Raises:
        ValueError: If it is not ``auto``, ``stacked`` or ``loop``.
    """
    if execution not in ("auto", "stacked", "loop"):
        raise ValueError(f"execution must be 'auto', 'stacked' or 'loop', got {execution!r}.")


def choose_execution(modules: Sequence[nn.Module], batch_shape: Sequence[int]) -> Execution:
    """Whether members run faster as one stacked model or one after the other.

    Before PyTorch multiplies it spends some microseconds on each layer of each member, forward and backward, and a
    small product keeps one thread busy at most. Stacked members share the first and fill the threads together. That
    pays while arithmetic is short beside it: up to :data:`LARGEST_STACKED` multiply-adds of an average layer. Beyond,
    each member fills the threads by itself and little is left to share, while the gradients of all members are in
    memory at once: where that memory is fresh, the loop is faster (``benchmarks/stacked_members.py``).

    Args:
        modules: The members.
        batch_shape: The axes of a member's batch before the features: ``(batch,)``, or ``(batch, position)`` for
            sequences.

    Returns:
        ``stacked`` for several members of one shape that have rules for all of their layers and layers small enough;
        ``loop`` for others.
    """
    _check_any(modules)
    alike = all(_find_difference(modules[0], module) is None for module in modules[1:])
    if len(modules) == 1 or not alike or not has_rules(modules[0]):
        return "loop"
    # Vectors (biases, norms) and tables that are looked up in are not multiplied with.
    tables = {id(part.weight) for part in modules[0].modules() if isinstance(part, nn.Embedding)}
    matrices = [weight for weight in modules[0].parameters() if weight.dim() > 1 and id(weight) not in tables]
    multiply_adds = math.prod(batch_shape) * sum(matrix.numel() for matrix in matrices)
    return "stacked" if multiply_adds <= LARGEST_STACKED * len(matrices) else "loop"


def _inputs_of_members(inputs: Tensor, num_members: int, per_member: bool) -> Tensor:
    if not per_member:
        return inputs.expand(num_members, *inputs.shape)
    if inputs.dim() == 0 or len(inputs) != num_members:
        raise ValueError(
            f"With per_member=True inputs are (member, batch, ...) for {num_members} members, got "
            f"{tuple(inputs.shape)}. Leave it off where all members read the same."
        )
    return inputs


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; one that is used twice is there once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """Values as a parameter where the tensor is one, trained where it is."""
    values = values.detach()
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def _copy_with(module: nn.Module, replacements: dict[int, Tensor]) -> nn.Module:
    """A copy with other tensors in it, given by the ``id`` of those that they stand for."""
    # What deepcopy finds in its memo it takes for copied already.
    return copy.deepcopy(module, memo=dict(replacements))


def _check_any(modules: Sequence[nn.Module]) -> None:
    if not modules:
        raise ValueError("There must be at least one member, got none.")


def _check_alike(modules: Sequence[nn.Module]) -> None:
    _check_any(modules)
    for number, module in enumerate(modules[1:], start=1):
        difference = _find_difference(modules[0], module)
        if difference is not None:
            raise ValueError(
                f"Members 0 and {number} cannot be stacked: {difference}. Stack members of one shape and mode, or join "
                "them with execution='loop'."
            )


def _find_difference(first: nn.Module, other: nn.Module) -> str | None:
    ours, theirs = _describe(first), _describe(other)
    for place in ours | theirs:
        if ours.get(place) != theirs.get(place):
            return f"{place} is {ours.get(place, 'missing')} in the one and {theirs.get(place, 'missing')} in the other"
    return None


def _describe(module: nn.Module) -> dict[str, str]:
    """What must be the same in members of one shape, by where it is: tensors first, then layers and their settings."""
    described: dict[str, str] = {}
    for name, tensor in _named_tensors(module).items():
        frozen = ", frozen" if isinstance(tensor, nn.Parameter) and not tensor.requires_grad else ""
        described[name] = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}{frozen}"
    for name, layer in module.named_modules(remove_duplicate=False):
        place = name or "the module"
        described[place] = type(layer).__qualname__
        settings = {key: value for key, value in vars(layer).items() if not key.startswith("_")}
        described |= {f"{place}.{key}": _show(value) for key, value in settings.items() if _is_plain(value)}
    return described


def _is_plain(value: Any) -> bool:
    """Whether a setting can be compared by how it is written: numbers, words, functions, and sequences of these."""
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype)) or hasattr(value, "__qualname__")


def _show(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)
