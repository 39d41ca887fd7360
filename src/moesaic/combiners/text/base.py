"""What every text combiner is: it asks members for finished answers, chooses one, and says how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from moesaic.combiners.words import Words
from moesaic.types import Candidate, TextAnswer

TEXT_COMBINERS: Words[TextCombiner] = Words("text combiner")
"""Registered word of every text combiner."""


class Panel(Protocol):
    """The members, as a text combiner sees them: who they are, what they answer, and what they think of an answer."""

    @property
    def num_parameters(self) -> Mapping[str, int]:
        """Size of each member, by name, in the members' order."""
        ...

    def ask(self, member: str, prompts: Sequence[str]) -> list[tuple[Candidate, ...]]:
        """One member's answers to each prompt."""
        ...

    def score(
        self, member: str, prompts: Sequence[str], candidates: Sequence[Sequence[Candidate]]
    ) -> list[tuple[float, ...]]:
        """Log-probability, under one member, of each candidate to each prompt, whoever wrote it."""
        ...


class TextCombiner(ABC):
    """Makes one answer out of the members' answers.

    A text combiner is made with plain keyword arguments and keeps nothing else; members are asked through a panel, so
    it decides who is asked at all.
    """

    word: ClassVar[str]

    @abstractmethod
    def combine(self, prompts: Sequence[str], panel: Panel) -> list[TextAnswer]:
        """Answer each prompt.

        Args:
            prompts: What is to be answered.
            panel: The members.
        """

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, to be shown."""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())
        return f"{type(self).__name__}({arguments})"


register_text = TEXT_COMBINERS.register
"""Makes a text combiner known by a word; see :meth:`Words.register`."""

build_text_combiner = TEXT_COMBINERS.build
"""Makes the text combiner that a word names; see :meth:`Words.build`."""


def ask_all(prompts: Sequence[str], panel: Panel) -> list[tuple[Candidate, ...]]:
    """Every member's answers to each prompt, in the members' order."""
    answers = [panel.ask(member, prompts) for member in panel.num_parameters]
    return [tuple(candidate for given in of_prompt for candidate in given) for of_prompt in zip(*answers, strict=True)]


def take_best(
    candidates: tuple[Candidate, ...], scores: Sequence[float], weights: Mapping[str, float], asked: Sequence[str]
) -> TextAnswer:
    """The candidate with the highest score; of equal ones the first."""
    best = candidates[max(range(len(scores)), key=lambda index: scores[index])]
    return TextAnswer(best.text, best.member, dict(weights), candidates, tuple(scores), tuple(asked))


def check_weights(weights: Sequence[float] | None) -> None:
    """Refuse weights that are negative or all zero.

    Raises:
        ValueError: If they are.
    """
    if weights is not None and (min(weights, default=-1) < 0 or sum(weights) == 0):
        raise ValueError(f"weights must be non-negative and not all 0, got {list(weights)}.")


def member_weights(weights: Sequence[float] | None, members: Sequence[str]) -> dict[str, float]:
    """Each member's weight, rescaled so that they sum to 1; equal ones if none are given.

    Raises:
        ValueError: If the number of weights is not the number of members.
    """
    given = [1.0] * len(members) if weights is None else list(weights)
    if len(given) != len(members):
        raise ValueError(
            f"There are {len(given)} weights for {len(members)} members ({', '.join(members)}); give one a member."
        )
    return {member: weight / sum(given) for member, weight in zip(members, given, strict=True)}
