"""Multiple choice by models that write: of the choices that a question comes with, which is likeliest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from moesaic.data import Pair
from moesaic.errors import DataError
from moesaic.tasks.generative import Answers, GenerativeTask, Measured, check_answers
from moesaic.tasks.question_answering import QuestionAnswering
from moesaic.tasks.questions import Question, read_question, read_unanswered

_NORMALIZATIONS = ("none", "tokens", "bytes")

MAJORITY = "always the most frequent choice"
"""The system that does not read: it takes the place that is right most often among the very rows it is measured on."""


@dataclass(frozen=True)
class MultipleChoice(GenerativeTask):
    r"""Choose one of the answers that a question comes with; an expert is usually one of a domain.

    Models learn to write the right choice, and answer with the one that they find likeliest. Precision, recall and F1
    are means over the places of choices, from the first to the last, that are right or are chosen at least once: they
    say something where the choices are the same for all questions, such as yes, no and maybe; elsewhere they show a
    model that has a place of its own liking.

    Attributes:
        template: The prompt, as :class:`QuestionAnswering` has it.
        normalization: What the log-probability of a choice is divided by: ``none``, its number of ``tokens``, or its
            ``bytes`` of UTF-8. Undivided, long choices have less of a chance.
        fixed_choices: What every question is answered by, where rows have no choices of their own.

    Raises:
        ValueError: If the template does not fit, the normalization is none of these, or there is one fixed choice.

    Example:
        >>> task = MultipleChoice(template="{question}\n{choices}")
        >>> row = {"question": "Who sang?", "choices": ["Ben", "Ann"], "answer_index": 1}
        >>> pair = task.pair(row, "row 1")
        >>> pair.source, pair.references
        ('Who sang?\nBen\nAnn', ('Ann',))

    Reference: Brown et al. (2020), section 2.4, https://arxiv.org/abs/2005.14165
    """

    word: ClassVar[str] = "multiple_choice"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro F1", "macro precision", "macro recall")

    template: str = "Question: {question}\n{choices}\n{context}\nAnswer:"
    normalization: str = "none"
    fixed_choices: Sequence[str] = ()

    def __post_init__(self) -> None:
        QuestionAnswering(self.template)
        if self.normalization not in _NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(_NORMALIZATIONS)}, got {self.normalization!r}.")
        if len(self.fixed_choices) == 1:
            raise ValueError(f"fixed_choices has {self.fixed_choices[0]!r} alone. Give two or more, or none.")

    @property
    def main_field(self) -> str:
        """See :attr:`GenerativeTask.main_field`."""
        return "question"

    def source(self, row: Mapping[str, Any], place: str) -> str:
        """See :meth:`GenerativeTask.source`; rows need choices, and not which of them is right."""
        return QuestionAnswering(self.template).prompt(self._ask(row, place))

    def references(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        """See :meth:`GenerativeTask.references`: the right choice."""
        question = self._read(row, place)
        assert question.answer_index is not None, "a question with choices has a right one"
        return (question.choices[question.answer_index],)

    def ask(self, row: Mapping[str, Any], place: str) -> Pair:
        """See :meth:`GenerativeTask.ask`; the choices go with it, and what their log-probabilities are divided by."""
        choices = list(self._ask(row, place).choices)
        return replace(super().ask(row, place), details={"choices": choices, "normalization": self.normalization})

    def pair(self, row: Mapping[str, Any], place: str) -> Pair:
        """See :meth:`GenerativeTask.pair`; which choice is right goes with it, too."""
        pair = super().pair(row, place)
        return replace(pair, details={**pair.details, "answer_index": self._read(row, place).answer_index})

    def compare(
        self, answers: Answers, pairs: Sequence[Pair], *, baseline: str | None = None, num_resamples: int = 1000
    ) -> dict[str, dict[str, Measured]]:
        """See :meth:`GenerativeTask.compare`; percentages.

        Raises:
            ValueError: Also if a system's answer is none of the choices.
        """
        check_answers(answers, pairs)
        first = next(iter(answers)) if baseline is None else baseline
        right = np.array([pair.details["answer_index"] for pair in pairs])
        chosen = {name: _places(name, texts, pairs) for name, texts in answers.items()}
        draws = np.random.default_rng(0).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), num_resamples)
        everything = np.ones((1, len(pairs)), dtype=np.int64)
        value = {name: _scores(everything, places, right)[0] for name, places in chosen.items()}
        drawn = {name: _scores(draws, places, right) for name, places in chosen.items()}
        measured = {}
        for name in answers:
            low, high = np.quantile(drawn[name], [0.025, 0.975], axis=0)
            difference = value[name] - value[first]
            # How far resampling alone moves the difference, as in compare_means.
            is_as_far = np.abs(drawn[name] - drawn[first] - difference) >= np.abs(difference) - 1e-12
            p_values = (1 + is_as_far.sum(axis=0)) / (1 + num_resamples)
            measured[name] = {
                metric: Measured(
                    float(value[name][index]),
                    float(low[index]),
                    float(high[index]),
                    None if name == first else float(p_values[index]),
                )
                for index, metric in enumerate(self.metrics)
            }
        return measured

    def baselines(self, pairs: Sequence[Pair]) -> Answers:
        """See :meth:`GenerativeTask.baselines`: the place that is right most often in these very rows."""
        most_frequent = int(np.bincount([pair.details["answer_index"] for pair in pairs]).argmax())
        choices = [pair.details["choices"] for pair in pairs]
        return {MAJORITY: [given[min(most_frequent, len(given) - 1)] for given in choices]}

    def arguments(self) -> dict[str, Any]:
        """See :meth:`GenerativeTask.arguments`."""
        return asdict(self) | {"fixed_choices": list(self.fixed_choices)}

    def signatures(self) -> dict[str, str]:
        """See :meth:`GenerativeTask.signatures`."""
        divided = {"none": "undivided", "tokens": "per token", "bytes": "per byte"}[self.normalization]
        likeliest = f"highest log-probability, {divided}"
        means = dict.fromkeys(self.metrics[1:], f"{likeliest}; mean over the places of choices")
        return {self.metrics[0]: likeliest} | means

    def _read(self, row: Mapping[str, Any], place: str) -> Question:
        return _with_choices(read_question({"answers": [], **row}, place, fixed_choices=self.fixed_choices), row, place)

    def _ask(self, row: Mapping[str, Any], place: str) -> Question:
        fixed = {"choices": list(self.fixed_choices), "answer_index": 0} if self.fixed_choices else {}
        return _with_choices(read_unanswered({**row, **fixed}, place), row, place)


def _with_choices(question: Question, row: Mapping[str, Any], place: str) -> Question:
    if len(question.choices) < 2:
        raise DataError(
            f"{place}: there are {len(question.choices)} choices, and two or more are needed; the fields are "
            f"{', '.join(row)}. Give the row a list of 'choices', or the task fixed_choices."
        )
    return question


def _places(system: str, texts: Sequence[str], pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Which choice each answer is; of two choices with the same text, the right one."""
    found = []
    for text, pair in zip(texts, pairs, strict=True):
        choices, right = pair.details["choices"], pair.details["answer_index"]
        if text not in choices:
            raise ValueError(f"{system!r} answered {text!r}, which is none of the choices: {', '.join(choices)}.")
        found.append(right if choices[right] == text else choices.index(text))
    return np.array(found)


def _scores(
    draws: NDArray[np.int64], chosen: NDArray[np.int64], right: NDArray[np.int64]
) -> Float[np.ndarray, "draw metric"]:
    """The metrics of :class:`MultipleChoice`, in percent, where each question counts as often as it was drawn."""
    places = np.union1d(chosen, right)
    is_chosen, is_right = chosen[:, None] == places, right[:, None] == places  # both (question, place)
    num_chosen, num_right, hits = draws @ is_chosen, draws @ is_right, draws @ (is_chosen & is_right)
    # A place that was not drawn counts 0, as scikit-learn has it.
    precision = (hits / np.maximum(num_chosen, 1)).mean(axis=1)
    recall = (hits / np.maximum(num_right, 1)).mean(axis=1)
    f1 = (2 * hits / np.maximum(num_chosen + num_right, 1)).mean(axis=1)
    accuracy = hits.sum(axis=1) / draws.sum(axis=1)
    return 100 * np.stack([accuracy, f1, precision, recall], axis=1)
