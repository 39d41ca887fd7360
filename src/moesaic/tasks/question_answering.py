"""Question answering by models that write: a question, and what it is about, becomes an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from string import Formatter
from typing import Any, ClassVar

import numpy as np

from moesaic.data import Pair
from moesaic.errors import DataError
from moesaic.tasks.generative import Answers, GenerativeTask, Measured, check_answers, compare_means
from moesaic.tasks.questions import Question, read_question, read_unanswered
from moesaic.tasks.squad import answer_f1, exact_match

_SLOTS = ("question", "context", "choices")


@dataclass(frozen=True)
class QuestionAnswering(GenerativeTask):
    r"""Answer questions in own words; an expert is usually one of a domain.

    Attributes:
        template: The prompt, with ``{question}`` and, where wanted, ``{context}`` and ``{choices}`` (one a line).
        language: The language whose articles do not count in the scores; see
            :func:`moesaic.tasks.normalize_answer`.

    Raises:
        ValueError: If the template has no ``{question}``, or asks for what a row does not have.

    Example:
        >>> task = QuestionAnswering()
        >>> row = {"question": "Who sang?", "context": "Ann sang.", "answers": ["Ann", "Ann did"]}
        >>> pair = task.pair(row, "row 1")
        >>> pair.source, pair.references
        ('Ann sang.\nQuestion: Who sang?\nAnswer:', ('Ann', 'Ann did'))
    """

    word: ClassVar[str] = "question_answering"
    metrics: ClassVar[tuple[str, ...]] = ("F1", "exact match")

    template: str = "{context}\nQuestion: {question}\nAnswer:"
    language: str | None = None

    def __post_init__(self) -> None:
        slots = [name for _, name, _, _ in Formatter().parse(self.template) if name is not None]
        unknown = [name for name in slots if name not in _SLOTS]
        if unknown or "question" not in slots:
            raise ValueError(
                f"template must have {{question}}, and may have {{context}} and {{choices}}, got {self.template!r}. "
                "Write {{ and }} for braces that are to stand there."
            )

    @property
    def main_field(self) -> str:
        """See :attr:`GenerativeTask.main_field`."""
        return "question"

    def prompt(self, question: Question) -> str:
        """What a model reads of a question; white space around it, left by what the question does not have, is cut."""
        choices = "\n".join(question.choices)
        filled = self.template.format(question=question.question, context=question.context, choices=choices)
        return filled.strip()

    def source(self, row: Mapping[str, Any], place: str) -> str:
        """See :meth:`GenerativeTask.source`; rows are those of :func:`read_question`, and need no answers."""
        return self.prompt(read_unanswered(row, place))

    def references(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        """See :meth:`GenerativeTask.references`."""
        answers = read_question(row, place).answers
        if not answers:
            raise DataError(f"{place}: the field 'answers' is empty. Give at least one, or leave the row out.")
        return answers

    def ask(self, row: Mapping[str, Any], place: str) -> Pair:
        """See :meth:`GenerativeTask.ask`; question and context go with it, for what is taken from the context."""
        question = read_unanswered(row, place)
        return replace(super().ask(row, place), text=question.context, details={"question": question.question})

    def pair(self, row: Mapping[str, Any], place: str) -> Pair:
        """See :meth:`GenerativeTask.pair`; where the answers stand in the context goes with it, too."""
        pair = super().pair(row, place)
        spans = [list(span) for span in read_question(row, place).spans]
        return replace(pair, details={**pair.details, "spans": spans})

    def compare(
        self, answers: Answers, pairs: Sequence[Pair], *, baseline: str | None = None, num_resamples: int = 1000
    ) -> dict[str, dict[str, Measured]]:
        """See :meth:`GenerativeTask.compare`; percentages, each the mean over questions of the best over references."""
        check_answers(answers, pairs)
        first = next(iter(answers)) if baseline is None else baseline
        measured: dict[str, dict[str, Measured]] = {name: {} for name in answers}
        for metric, score in (("F1", answer_f1), ("exact match", exact_match)):
            scores = {
                name: np.array(
                    [
                        100 * score(text, pair.references, language=self.language)
                        for text, pair in zip(texts, pairs, strict=True)
                    ]
                )
                for name, texts in answers.items()
            }
            for name, found in compare_means(scores, baseline=first, num_resamples=num_resamples).items():
                measured[name][metric] = found
        return measured

    def arguments(self) -> dict[str, Any]:
        """See :meth:`GenerativeTask.arguments`."""
        return asdict(self)

    def signatures(self) -> dict[str, str]:
        """See :meth:`GenerativeTask.signatures`."""
        return dict.fromkeys(self.metrics, f"SQuAD v1.1, articles of {self.language or 'en'}")


def question_of(pair: Pair) -> Question:
    """The question that a pair of :class:`QuestionAnswering` asks, for models that take its answer from the context.

    Example:
        >>> row = {"question": "Who sang?", "context": "Ann sang.", "answers": ["Ann"]}
        >>> question_of(QuestionAnswering().pair(row, "row 1")).spans
        ((0, 3),)
    """
    spans = tuple((start, end) for start, end in pair.details.get("spans", ()))
    return Question(pair.details["question"], pair.text, pair.references, spans)
