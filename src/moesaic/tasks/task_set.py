"""The tasks that models do: one, or several that are told apart by a tag before each source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesaic.data import Pair
from moesaic.tasks.generative import Answers, GenerativeTask, Measured, describe_task, make_task, read_task, write_task

_FILE = "tasks.json"

ONLY = ""
"""The name of a task that is the only one: it needs none, and its sources have no tag."""


@dataclass(frozen=True)
class TaskSet:
    """Tasks by name; a source of a task that has a name begins with its tag, such as ``[translate]``.

    One model, and one router, can then serve all of them: what is asked stands where no cut of a long source reaches
    it.

    Attributes:
        tasks: The tasks; the only one is called :data:`ONLY`.

    Example:
        >>> from moesaic.tasks import Summarization, Translation
        >>> tasks = TaskSet({"translate": Translation(), "shorten": Summarization(instruction="")})
        >>> tasks.ask("translate", {"source": "A dog.", "target_lang": "de"}, "row 1").source
        '[translate] <2de> A dog.'
        >>> tasks.tags
        ('[translate]', '[shorten]')

    Reference: Raffel et al. (2020), section 2.4 (what is asked stands before the source),
    https://arxiv.org/abs/1910.10683
    """

    tasks: Mapping[str, GenerativeTask]

    def ask(self, name: str, row: Mapping[str, Any], place: str) -> Pair:
        """A row that is to be answered; see :meth:`GenerativeTask.ask`."""
        return _tagged(name, self.tasks[name].ask(row, place))

    def pair(self, name: str, row: Mapping[str, Any], place: str) -> Pair:
        """A row as a pair; see :meth:`GenerativeTask.pair`."""
        return _tagged(name, self.tasks[name].pair(row, place))

    def lessons(self, name: str, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """What models learn of pairs that they are trained on; see :meth:`GenerativeTask.lessons`."""
        task = self.tasks[name]
        return tuple(_tagged(name, lesson) for pair in self.untagged(name, pairs) for lesson in task.lessons(pair))

    def untagged(self, name: str, pairs: Sequence[Pair]) -> list[Pair]:
        """Pairs of one task as the task itself makes and reads them."""
        return [_untagged(name, pair) for pair in pairs]

    def compare(
        self,
        name: str,
        answers: Answers,
        pairs: Sequence[Pair],
        *,
        baseline: str | None = None,
        num_resamples: int = 1000,
    ) -> dict[str, dict[str, Measured]]:
        """Score answers to pairs of one task; see :meth:`GenerativeTask.compare`."""
        own = self.untagged(name, pairs)
        return self.tasks[name].compare(answers, own, baseline=baseline, num_resamples=num_resamples)

    def baselines(self, name: str, pairs: Sequence[Pair]) -> Answers:
        """What is written to pairs of one task without a model; see :meth:`GenerativeTask.baselines`."""
        return self.tasks[name].baselines(self.untagged(name, pairs))

    def learn(self, pairs: Mapping[str, Sequence[Pair]]) -> TaskSet:
        """The tasks with what each takes from its own training pairs; see :meth:`GenerativeTask.learn`."""
        return TaskSet({name: task.learn(self.untagged(name, pairs[name])) for name, task in self.tasks.items()})

    @property
    def tags(self) -> tuple[str, ...]:
        """Words that sources begin with and that a tokenizer must keep whole."""
        own = dict.fromkeys(tag for task in self.tasks.values() for tag in task.tags)
        return (*(task_tag(name) for name in self.tasks if name != ONLY), *own)

    @property
    def chat_template(self) -> bool:
        """Whether causal models read sources in their tokenizer's chat template; recipes see to it that tasks agree."""
        return all(task.chat_template for task in self.tasks.values())

    @property
    def default_chat_template(self) -> str | None:
        """The chat template of causal models that bring none, where some task is a conversation."""
        return next(filter(None, (task.default_chat_template for task in self.tasks.values())), None)

    def signatures(self) -> dict[str, str]:
        """How each metric is computed; see :meth:`GenerativeTask.signatures`."""
        return {metric: how for task in self.tasks.values() for metric, how in task.signatures().items()}

    @property
    def words(self) -> tuple[str, ...]:
        """The registered words of the tasks."""
        return tuple(dict.fromkeys(task.word for task in self.tasks.values()))

    def save(self, folder: Path) -> None:
        """Write beside a model which tasks it does, so that a row can be read as it was in training."""
        if ONLY in self.tasks:
            write_task(self.tasks[ONLY], folder)
        else:
            described = {name: describe_task(task) for name, task in self.tasks.items()}
            (folder / _FILE).write_text(json.dumps(described))

    @classmethod
    def load(cls, folder: Path) -> TaskSet | None:
        """The tasks that :meth:`save` wrote; ``None`` if there are none.

        Raises:
            CheckpointError: If one is none that this version knows.
        """
        if not (folder / _FILE).exists():
            only = read_task(folder)
            return None if only is None else cls({ONLY: only})
        described = json.loads((folder / _FILE).read_text())
        return cls({name: make_task(values, folder / _FILE) for name, values in described.items()})

    def name_of(self, asked: str | None) -> str:
        """The task that a user asks for, by its name; the only one needs none.

        Raises:
            ValueError: If there is no such task, or there are several and none is named.
        """
        names = ", ".join(self.tasks)
        if ONLY in self.tasks:
            if asked is not None:
                raise ValueError(
                    f"there is no task {asked!r}: this model does one task, {self.words[0]}, which needs no name. "
                    "Leave the task out."
                )
            return ONLY
        if asked is None:
            raise ValueError(f"this model does several tasks, {names}, and none of them was named. Name one.")
        if asked not in self.tasks:
            raise ValueError(f"there is no task {asked!r}; there are {names}. Name one of these.")
        return asked


def task_tag(name: str) -> str:
    """What every source of a task that has a name begins with.

    Example:
        >>> task_tag("translate")
        '[translate]'
    """
    return f"[{name}]"


def _tagged(name: str, pair: Pair) -> Pair:
    """A pair whose source, and last turn where it has turns, begins with the task's tag."""
    if name == ONLY:
        return pair
    tag = f"{task_tag(name)} "
    return _replace_sources(pair, lambda source: tag + source)


def _untagged(name: str, pair: Pair) -> Pair:
    """What :func:`_tagged` was given."""
    if name == ONLY:
        return pair
    tag = f"{task_tag(name)} "
    return _replace_sources(pair, lambda source: source.removeprefix(tag))


def _replace_sources(pair: Pair, change: Callable[[str], str]) -> Pair:
    turns = pair.messages
    if turns:
        turns = (*turns[:-1], {**turns[-1], "content": change(turns[-1]["content"])})
    return replace(pair, source=change(pair.source), messages=turns)
