"""Conversation: what was said so far, into what an assistant answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import numpy as np
from sacrebleu.metrics.chrf import CHRF

from moesaic.data import Pair
from moesaic.errors import DataError
from moesaic.tasks.chat import CHAT_TAGS, CHAT_TEMPLATE, Message
from moesaic.tasks.corpus_metrics import compare_corpora, signature
from moesaic.tasks.generative import Answers, GenerativeTask, Measured, check_answers, compare_means, field
from moesaic.tasks.rouge import rouge

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Chat(GenerativeTask):
    r"""Answer as an assistant, or continue what a user begins; an expert is usually one of a domain.

    A row is a conversation, a list of ``{"role": ..., "content": ...}`` that ends with the assistant's turn, or a
    prompt and its response. The last turn of the assistant is what models learn to write and are measured by; earlier
    ones they read, and may learn too.

    Attributes:
        messages_field: The field that holds a conversation.
        prompt_field: The field that holds what the user says, in rows without a conversation.
        response_field: The field that holds what the assistant answers to it, or a list of answers that are all
            right; the first is the one to learn, and the one that chrF++ and the log-likelihood look at.
        system_field: The field that holds the system's text; rows may lack it, and then :attr:`system` is taken.
        learned_turns: Which of the assistant's turns models learn: the ``last``, or ``all`` that answer a user, each
            with what was said before it.

    Example:
        >>> pair = Chat(system="Be brief.").pair({"prompt": "Who sang?", "response": "Ann."}, "row 1")
        >>> pair.source, pair.target
        ('system: Be brief.\nuser: Who sang?', 'Ann.')
    """

    word: ClassVar[str] = "chat"
    metrics: ClassVar[tuple[str, ...]] = ("chrF++", "ROUGE-Lsum", "log-likelihood")
    scores_references: ClassVar[bool] = True

    messages_field: str = "messages"
    prompt_field: str = "prompt"
    response_field: str = "response"
    system_field: str = "system"
    learned_turns: Literal["last", "all"] = "last"

    @property
    def main_field(self) -> str:
        """See :attr:`GenerativeTask.main_field`."""
        return self.prompt_field

    def ask(self, row: Mapping[str, Any], place: str) -> Pair:
        """See :meth:`GenerativeTask.ask`; the turns go with it."""
        turns = self._asked(row, place)
        return Pair(_plain(turns), (), messages=turns)

    def source(self, row: Mapping[str, Any], place: str) -> str:
        """See :meth:`GenerativeTask.source`: a turn a line, for models without a chat template and for routers.

        Raises:
            DataError: If there is neither a conversation nor a prompt, or what there is does not fit.
        """
        return _plain(self._asked(row, place))

    def references(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        """See :meth:`GenerativeTask.references`: the assistant's last turn."""
        if self.messages_field not in row:
            return self._responses(row, place)
        last = self._conversation(row, place)[-1]
        if last["role"] != "assistant":
            raise DataError(
                f"{place}: the conversation in {self.messages_field!r} ends with the {last['role']}, and what models "
                "learn is the assistant's last turn. Leave out what follows it, or the row."
            )
        return (last["content"].strip(),)

    def lessons(self, pair: Pair) -> Iterator[Pair]:
        """See :meth:`GenerativeTask.lessons`: a conversation up to each turn of the assistant that is to be learned."""
        earlier = zip(pair.messages, pair.messages[1:], strict=False) if self.learned_turns == "all" else ()
        for number, (before, turn) in enumerate(earlier, start=1):
            if (before["role"], turn["role"]) == ("user", "assistant"):
                asked = pair.messages[:number]
                yield Pair(_plain(asked), (turn["content"].strip(),), messages=asked)
        yield pair

    def compare(
        self, answers: Answers, pairs: Sequence[Pair], *, baseline: str | None = None, num_resamples: int = 1000
    ) -> dict[str, dict[str, Measured]]:
        """See :meth:`GenerativeTask.compare`: chrF++ of all answers together, and the mean ROUGE-Lsum (:func:`rouge`).

        Raises:
            ValueError: If a system has not as many answers as there are pairs.
        """
        check_answers(answers, pairs)
        first = next(iter(answers)) if baseline is None else baseline
        measured = compare_corpora(
            {"chrF++": CHRF(word_order=2)}, answers, pairs, baseline=first, num_resamples=num_resamples
        )
        scores = {
            system: np.array([rouge(text, pair.references).rouge_lsum for text, pair in zip(texts, pairs, strict=True)])
            for system, texts in answers.items()
        }
        for system, found in compare_means(scores, baseline=first, num_resamples=num_resamples).items():
            measured[system]["ROUGE-Lsum"] = found
        return measured

    def signatures(self) -> dict[str, str]:
        """See :meth:`GenerativeTask.signatures`."""
        return {
            "chrF++": signature(CHRF(word_order=2)),
            "ROUGE-Lsum": f"rouge-score {version('rouge-score')}, F1, Porter stemmer",
            "log-likelihood": "nats per token of the references and what ends them; perplexity is exp(-log-likelihood)",
        }

    def arguments(self) -> dict[str, Any]:
        """See :meth:`GenerativeTask.arguments`."""
        return asdict(self)

    @property
    def tags(self) -> tuple[str, ...]:
        """See :attr:`GenerativeTask.tags`: those of :data:`moesaic.tasks.CHAT_TEMPLATE`."""
        return CHAT_TAGS

    @property
    def default_chat_template(self) -> str:
        """See :attr:`GenerativeTask.default_chat_template`."""
        return CHAT_TEMPLATE

    def _asked(self, row: Mapping[str, Any], place: str) -> tuple[Message, ...]:
        """The turns up to the one that is to be answered, the system's first."""
        if self.messages_field in row:
            turns = self._conversation(row, place)
            turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
        elif self.prompt_field in row:
            turns = [{"role": "user", "content": field(row, self.prompt_field, place)}]
        else:
            raise DataError(
                f"{place}: there is neither a field {self.messages_field!r} nor {self.prompt_field!r}; there are "
                f"{', '.join(row) or 'none'}."
            )
        if not turns or turns[-1]["role"] != "user":
            raise DataError(
                f"{place}: before the assistant's last turn there must be one of the user, got "
                f"{', '.join(turn['role'] for turn in turns) or 'none'}."
            )
        system = field(row, self.system_field, place) if row.get(self.system_field) else self.system
        if system and turns[0]["role"] != "system":
            return ({"role": "system", "content": system}, *turns)
        return tuple(turns)

    def _responses(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        name = self.response_field
        if not isinstance(row.get(name), list):
            return (field(row, name, place).strip(),)
        if not row[name]:
            raise DataError(f"{place}: the field {name!r} is empty. Fill it in, or leave the row out.")
        return tuple(field({name: response}, name, place).strip() for response in row[name])

    def _conversation(self, row: Mapping[str, Any], place: str) -> list[Message]:
        messages = row[self.messages_field]
        if not isinstance(messages, list) or not messages:
            raise DataError(
                f"{place}: the field {self.messages_field!r} must be a list of turns, each with role and content, got "
                f"{messages!r}."
            )
        turns = [_turn(message, f"{place}, turn {number}") for number, message in enumerate(messages, start=1)]
        for number, turn in enumerate(turns[1:], start=2):
            if turn["role"] == "system":
                raise DataError(f"{place}, turn {number}: only the first turn can be the system's. Leave it out.")
        return turns


def _turn(message: Any, place: str) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"{place}: a turn has role and content, got {message!r}.")
    role = field(message, "role", place)
    if role not in _ROLES:
        raise DataError(f"{place}: the role {role!r} is not known; there are {', '.join(_ROLES)}.")
    return {"role": role, "content": field(message, "content", place)}


def _plain(turns: Sequence[Message]) -> str:
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
