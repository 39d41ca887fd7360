"""What every model is that answers rows of a task, whether it writes its answers or takes them from the text."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from moesaic.data import Pair
from moesaic.errors import CheckpointError

ANSWERERS: dict[str, type[Answerer]] = {}
"""Registered word of every way of answering, as saved models spell it."""

_FILE = "answerer.json"

_PLAIN = "writing"
"""The kind of a folder that does not name one: a plain Transformers checkpoint."""


@dataclass(frozen=True)
class Answered:
    """An answer, and who gave it.

    Attributes:
        text: The answer.
        shares: The weight that each member had in it, by name; empty where there is no router.
    """

    text: str
    shares: Mapping[str, float] = field(default_factory=dict)


class Answerer(ABC):
    """A model, or a mixture of some, that answers the rows of a task with text.

    Attributes:
        network: The model, or the mixture.
    """

    word: ClassVar[str]

    network: nn.Module

    def __init_subclass__(cls) -> None:
        """Make the kind known by its word."""
        ANSWERERS[cls.word] = cls

    @abstractmethod
    def answer(self, pairs: Sequence[Pair]) -> list[Answered]:
        """Answer each pair; its references are not looked at."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that :meth:`load` needs: safetensors and JSON."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote; in evaluation mode.

        Raises:
            CheckpointError: If something is missing or damaged.
        """

    def score(self, pairs: Sequence[Pair]) -> list[tuple[float, int]] | None:
        """How likely it finds the first reference of each pair.

        Returns:
            Log-probability of the reference and what ends it in nats, and the number of its tokens, for each pair;
            ``None`` for a kind that gives no probabilities.
        """
        return None

    @property
    def num_parameters(self) -> int:
        """Parameters in all."""
        return _count(self.network)

    @property
    def active_parameters(self) -> int:
        """Parameters that work on one row: those of one member where a router chooses it."""
        if not self.chooses_one:
            return self.num_parameters
        members: Any = self.network.members
        # Members that are adapters share their backbone.
        of_members = {id(parameter): parameter.numel() for parameter in members.parameters()}
        active = [getattr(member, "num_active_parameters", None) or _count(member) for member in members]
        return self.num_parameters - sum(of_members.values()) + max(active)

    @property
    @abstractmethod
    def chooses_one(self) -> bool:
        """Whether a router chooses one member for each row."""


def describe_answerer(folder: Path, values: Mapping[str, Any]) -> None:
    """Write what a saved answerer says of itself: its ``type``, and what else :meth:`Answerer.load` needs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Read what :func:`describe_answerer` wrote; a plain Transformers checkpoint says nothing but its kind.

    Raises:
        CheckpointError: If its kind is none that this version knows.
    """
    if not (folder / _FILE).exists():
        return {"type": _PLAIN}
    values: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    if values.get("type") not in ANSWERERS:
        raise CheckpointError(
            f"{folder / _FILE}: the kind {values.get('type')!r} is not known; there are {', '.join(sorted(ANSWERERS))}."
        )
    return values


def load_answerer(folder: Path) -> Answerer:
    """Load a saved answerer, of whichever kind.

    Raises:
        CheckpointError: If it is of none that this version knows, or something is missing or damaged.
    """
    return ANSWERERS[read_description(folder)["type"]].load(folder)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
