"""What every task is in which models write text: how a row becomes source and references, how answers are scored."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moesaic.data import Pair
from moesaic.errors import CheckpointError, DataError

GENERATIVE_TASKS: dict[str, type[GenerativeTask]] = {}
"""Registered word of every task in which models write text, as recipes and saved models spell it."""

_FILE = "task.json"

Answers = Mapping[str, Sequence[str]]
"""What each system wrote about the same pairs, by its name."""


@dataclass(frozen=True)
class Measured:
    """A metric of one system on all pairs, and how sure it is.

    Attributes:
        value: The metric.
        low: Lower end of the interval that holds it in 95% of bootstrap resamples.
        high: Upper end.
        p_value: How often chance alone makes two equal systems differ as much as this one and the baseline; ``None``
            for the baseline itself.
    """

    value: float
    low: float
    high: float
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class GenerativeTask(ABC):
    """A task in which a model reads a source and writes a target.

    Attributes:
        system: What a chat model is told before the source; nothing by default.
        chat_template: Whether causal models read the source in their tokenizer's chat template, where it has one.
        metrics: What answers are scored by; the first decides. Higher is better.
        scores_references: Whether systems are also measured by how likely they find the references, as
            ``log-likelihood``; :meth:`compare` knows answers alone.
    """

    word: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    scores_references: ClassVar[bool] = False

    system: str = ""
    chat_template: bool = True

    def __init_subclass__(cls) -> None:
        """Make the task known by its word."""
        GENERATIVE_TASKS[cls.word] = cls

    @property
    @abstractmethod
    def main_field(self) -> str:
        """The field that holds the text which the task is about."""

    @abstractmethod
    def source(self, row: Mapping[str, Any], place: str) -> str:
        """What a model reads of a row.

        Args:
            row: The row's fields.
            place: Where it stands, as errors say it.

        Raises:
            DataError: If the row lacks a field, or one does not fit.
        """

    @abstractmethod
    def references(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        """What is right to write about a row; the first is what models learn.

        Raises:
            DataError: As for :meth:`source`, or if there is nothing to write.
        """

    @abstractmethod
    def compare(
        self, answers: Answers, pairs: Sequence[Pair], *, baseline: str | None = None, num_resamples: int = 1000
    ) -> dict[str, dict[str, Measured]]:
        """Score what several systems wrote about the same pairs.

        Args:
            answers: One answer a pair, by the system's name.
            pairs: The sources and references.
            baseline: The system with which the others are compared; the first if not given.
            num_resamples: Bootstrap resamples, the same for every system.

        Returns:
            For each system, each metric.

        Raises:
            ValueError: If a system has not as many answers as there are pairs.
        """

    def baselines(self, pairs: Sequence[Pair]) -> Answers:
        """What is written without a model, and always stands in the table; nothing unless a task has some."""
        return {}

    @property
    def default_chat_template(self) -> str | None:
        """The chat template of causal models that bring none; none unless a task is a conversation."""
        return None

    @property
    def tags(self) -> tuple[str, ...]:
        """Words that sources begin with and that a tokenizer must keep whole."""
        return ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """How sources begin that ask for different things, where they say so before what it is asked about."""
        return ()

    def learn(self, pairs: Sequence[Pair]) -> GenerativeTask:
        """The task with what it takes from the pairs that models are trained on, such as the languages."""
        return self

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values: what a saved model needs to know its task again."""

    def signatures(self) -> dict[str, str]:
        """How each metric is computed, in the words of the library that does it."""
        return {}

    def ask(self, row: Mapping[str, Any], place: str) -> Pair:
        """A row that is to be answered, as a pair without references; see :meth:`source`."""
        source = self.source(row, place)
        if not self.system:
            return Pair(source, ())
        messages = ({"role": "system", "content": self.system}, {"role": "user", "content": source})
        return Pair(source, (), messages=messages)

    def pair(self, row: Mapping[str, Any], place: str) -> Pair:
        """A row as a pair; see :meth:`source` and :meth:`references`."""
        return replace(self.ask(row, place), references=self.references(row, place))

    def lessons(self, pair: Pair) -> Iterator[Pair]:
        """What models learn of a pair that they are trained on: itself, unless a task finds more in it."""
        yield pair


def write_task(task: GenerativeTask, folder: Path) -> None:
    """Write beside a model which task it does, so that a row can be read as it was in training."""
    (folder / _FILE).write_text(json.dumps(describe_task(task)))


def read_task(folder: Path) -> GenerativeTask | None:
    """The task that :func:`write_task` wrote; ``None`` if there is none.

    Raises:
        CheckpointError: If it is none that this version knows.
    """
    if not (folder / _FILE).exists():
        return None
    return make_task(json.loads((folder / _FILE).read_text()), folder / _FILE)


def describe_task(task: GenerativeTask) -> dict[str, Any]:
    """A task as JSON values: its word under ``type``, and its arguments."""
    return {"type": task.word, **task.arguments()}


def make_task(values: Mapping[str, Any], place: Path) -> GenerativeTask:
    """Make the task that :func:`describe_task` described.

    Args:
        values: What it said.
        place: The file that they stand in.

    Raises:
        CheckpointError: If it is none that this version knows.
    """
    arguments = dict(values)
    word = arguments.pop("type", None)
    if word not in GENERATIVE_TASKS:
        raise CheckpointError(f"{place}: the task {word!r} is not known; there are {', '.join(GENERATIVE_TASKS)}.")
    return GENERATIVE_TASKS[word](**arguments)


def field(row: Mapping[str, Any], name: str, place: str) -> str:
    """A field of a row that holds text.

    Raises:
        DataError: If it is missing, is no text, or is empty.
    """
    if name not in row:
        raise DataError(f"{place}: there is no field {name!r}; there are {', '.join(row) or 'none'}.")
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"{place}: the field {name!r} must be text, got {value!r}.")
    if not value.strip():
        raise DataError(f"{place}: the field {name!r} is empty. Fill it in, or leave the row out.")
    return value


def check_answers(answers: Answers, pairs: Sequence[Pair]) -> None:
    """Refuse answers that are not one a pair.

    Raises:
        ValueError: Naming the system, if it has more or fewer.
    """
    for system, texts in answers.items():
        if len(texts) != len(pairs):
            raise ValueError(
                f"{system!r} gave {len(texts)} answers to {len(pairs)} sources. Give one answer a source, in their "
                "order."
            )


def compare_means(
    scores: Mapping[str, NDArray[np.float64]], *, baseline: str, num_resamples: int, seed: int = 0
) -> dict[str, Measured]:
    """Compare systems by the mean of a score that each answer has, on the same resampled answers.

    Args:
        scores: One score an answer, by the system's name.
        baseline: The system with which the others are compared.
        num_resamples: Bootstrap resamples.
        seed: Makes the draws.

    Returns:
        The mean of each system with its 95% interval, and the two-sided p-value of its difference from the baseline.

    Example:
        >>> right = {"coin": np.array([1.0, 0, 1, 0]), "oracle": np.ones(4)}
        >>> compare_means(right, baseline="coin", num_resamples=1000)["oracle"].value
        1.0

    Reference: Berg-Kirkpatrick et al. (2012), section 2, https://aclanthology.org/D12-1091
    """
    count = len(scores[baseline])
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=num_resamples) / count
    measured = {}
    for system, each in scores.items():
        low, high = np.quantile(draws @ each, [0.025, 0.975])
        difference = each - scores[baseline]
        by_chance = draws @ difference - difference.mean()
        is_as_far = np.abs(by_chance) >= abs(difference.mean()) - 1e-12
        p_value = None if system == baseline else float((1 + is_as_far.sum()) / (1 + num_resamples))
        measured[system] = Measured(float(each.mean()), float(low), float(high), p_value)
    return measured
