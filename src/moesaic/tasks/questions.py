"""Questions, and where their answers stand: rows of question answering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moesaic.data import RowSource
from moesaic.errors import DataError
from moesaic.tasks.generative import field


@dataclass(frozen=True)
class Question:
    """A question, what it is about, and what is right to answer.

    Attributes:
        question: The question.
        context: The text that it is asked about; empty where it is asked out of the blue.
        answers: All right answers; none where the right answer is that there is none.
        spans: Where answers stand in the context, as offsets of characters, the end excluded: one for each answer that
            is found there.
        choices: What to choose from, where the answer is a choice.
        answer_index: Which of the choices is right, counted from 0.
        domain: What kind of question it is, where the row says so.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    spans: tuple[tuple[int, int], ...] = ()
    choices: tuple[str, ...] = ()
    answer_index: int | None = None
    domain: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether there is an answer and the context does not hold it, so that no span can be right."""
        return bool(self.answers) and not self.spans


@dataclass(frozen=True)
class QuestionCounts:
    """What questions are like.

    Attributes:
        num_questions: All of them.
        num_lost: Those whose answers are not in their context; no reader of spans can get them right.
        num_without_answer: Those to which nothing is the right answer.
    """

    num_questions: int
    num_lost: int
    num_without_answer: int

    def __str__(self) -> str:
        return (
            f"{self.num_questions:,} questions; the answers to {self.num_lost:,} are not in their context; "
            f"{self.num_without_answer:,} have no answer"
        )


def count_questions(questions: Sequence[Question]) -> QuestionCounts:
    """Count what a reader of spans cannot get right.

    Example:
        >>> print(count_questions([Question("Who?", "Ann sang.", ("Ann",), ((0, 3),)), Question("Why?", "", ("joy",))]))
        2 questions; the answers to 1 are not in their context; 0 have no answer
    """
    return QuestionCounts(
        len(questions),
        sum(question.is_lost for question in questions),
        sum(not question.answers for question in questions),
    )


def read_questions(source: RowSource, *, fixed_choices: Sequence[str] = ()) -> list[Question]:
    """Read all rows of a source; see :func:`read_question`.

    Raises:
        DataError: If a row does not fit, with its file and line.
    """
    return [read_question(row, place, fixed_choices=fixed_choices) for place, row in source.rows()]


def read_question(row: Mapping[str, Any], place: str, *, fixed_choices: Sequence[str] = ()) -> Question:
    """Read a row with the fields ``question`` and ``answers``.

    It may have ``context``, ``domain``, ``answer_start`` (where each answer begins in the context, in characters), and
    ``choices`` with ``answer_index``, or with the right choice as the first answer. An answer that does not stand where
    the row says is looked for nearest to that place. Where the choices are always the same, they are given here, and
    the first answer says which is right.

    Args:
        row: The row's fields.
        place: Where it stands, as errors say it.
        fixed_choices: What every question is answered by, such as yes, no and maybe.

    Raises:
        DataError: If a field is missing or is of another type, an answer is empty, or a choice does not exist.

    Example:
        >>> read_question({"question": "Who sang?", "context": "Ann sang.", "answers": ["Ann"]}, "line 1").spans
        ((0, 3),)
    """
    context = row.get("context", "")
    if not isinstance(context, str):
        raise DataError(f"{place}: the field 'context' must be text, got {context!r}.")
    domain = row.get("domain", "")
    if not isinstance(domain, str):
        raise DataError(f"{place}: the field 'domain' must be text, got {domain!r}.")
    answers = _texts(row, "answers", place)
    spans = _find_answers(context, answers, _starts(row, len(answers), place))
    choices, answer_index = _read_choices(row, answers, fixed_choices, place)
    return Question(field(row, "question", place), context, answers, spans, choices, answer_index, domain)


def read_unanswered(row: Mapping[str, Any], place: str) -> Question:
    """Read what is asked, of a row that may lack what is right; see :func:`read_question`."""
    asked = {name: value for name, value in row.items() if name != "answer_start"}
    return read_question({"answer_index": 0} | asked | {"answers": []}, place)


def _texts(row: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    if name not in row:
        raise DataError(f"{place}: there is no field {name!r}; there are {', '.join(row) or 'none'}.")
    texts = row[name]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: the field {name!r} must be a list of texts, got {texts!r}.")
    if not all(text.strip() for text in texts):
        raise DataError(f"{place}: the field {name!r} has an empty text. Fill it in, or leave it out of the list.")
    return tuple(texts)


def _starts(row: Mapping[str, Any], num_answers: int, place: str) -> list[int]:
    starts = row.get("answer_start")
    if starts is None:
        return [0] * num_answers
    starts = [starts] if isinstance(starts, int) else starts
    if not isinstance(starts, list) or not all(type(start) is int for start in starts) or len(starts) != num_answers:
        raise DataError(
            f"{place}: the field 'answer_start' must have one number for each of the {num_answers} answers, got "
            f"{starts!r}. Leave it out to have the answers looked for."
        )
    return starts


def _find_answers(context: str, answers: Sequence[str], starts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    found = []
    for answer, start in zip(answers, starts, strict=True):
        after = context.find(answer, max(start, 0))
        before = context.rfind(answer, 0, max(start, 0) + len(answer))
        places = [place for place in (before, after) if place >= 0]
        if places:
            nearest = min(places, key=lambda place: abs(place - start))
            found.append((nearest, nearest + len(answer)))
    return tuple(dict.fromkeys(found))


def _read_choices(
    row: Mapping[str, Any], answers: Sequence[str], fixed_choices: Sequence[str], place: str
) -> tuple[tuple[str, ...], int | None]:
    if fixed_choices:
        if len(answers) != 1 or answers[0] not in fixed_choices:
            raise DataError(f"{place}: the answer must be one of {', '.join(fixed_choices)}, got {list(answers)}.")
        return tuple(fixed_choices), fixed_choices.index(answers[0])
    if "choices" not in row:
        return (), None
    choices = _texts(row, "choices", place)
    index = row.get("answer_index")
    if index is None and answers and answers[0] in choices:
        index = choices.index(answers[0])
    if type(index) is not int or not 0 <= index < len(choices):
        raise DataError(
            f"{place}: answer_index is {index!r}, and there are {len(choices)} choices. Use 0 to {len(choices) - 1}."
        )
    return choices, index
