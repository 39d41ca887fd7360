"""Answers as spans of a text: windows that an encoder reads, and the best span over all windows of a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moesaic.errors import DataError
from moesaic.tasks.questions import Question

NO_ANSWER = 0
"""Position that stands for "the answer is not in this window": the first, where BERT and its kin have ``[CLS]``."""


@dataclass(frozen=True)
class SpanWindows:
    """Questions as tokens, each with one window of its context after another; all are equally long.

    Attributes:
        input_ids: Question and window, then padding.
        attention_mask: 1 for tokens and 0 for padding.
        token_type_ids: 1 for tokens of the context where the tokenizer says so, else 0.
        may_answer: Where an answer may begin or end: at tokens of the context, and at ``NO_ANSWER``.
        question_index: The question of each window; windows of one question stand side by side.
        offsets: Where each token stands in its context, in characters, the end excluded; 0 outside of the context.
        spans: First and last position of the right answer; both ``NO_ANSWER`` in a window that does not hold it whole.
        num_cut_questions: Questions that were cut, since they are longer than a reader may read.
    """

    input_ids: Int[Tensor, "window position"]
    attention_mask: Int[Tensor, "window position"]
    token_type_ids: Int[Tensor, "window position"]
    may_answer: Bool[Tensor, "window position"]
    question_index: Int[Tensor, " window"]
    offsets: Int[Tensor, "window position 2"]
    spans: Int[Tensor, "window 2"]
    num_cut_questions: int

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def first_windows(self) -> Int[Tensor, " window"]:
        """For each window the first one of its question: what a router reads, so that it chooses once a question."""
        is_first = self.question_index.diff(prepend=self.question_index.new_tensor([-1])) != 0
        return is_first.nonzero().squeeze(1)[is_first.cumsum(0) - 1]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a reader and a router are called with; see :class:`moesaic.members.SpanReader`."""
        router_ids = (self.input_ids * self.attention_mask - (1 - self.attention_mask))[self.first_windows]
        return self.input_ids, self.attention_mask, self.token_type_ids, self.may_answer, router_ids


@dataclass(frozen=True)
class SpanAnswer:
    """An answer that was read in a context.

    Attributes:
        text: The answer; empty where the context has none.
        start: Where it begins in the context, in characters.
        end: Where it ends, excluded.
        window: The window that it was found in.
        log_probability: Of this span in its window, in nats.
        no_answer_log_probability: Of there being none, in the window that is least sure of that.
    """

    text: str
    start: int
    end: int
    window: int
    log_probability: float
    no_answer_log_probability: float


def tokenize_spans(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    stride: int,
    max_question_tokens: int = 64,
) -> SpanWindows:
    """Cut contexts into windows that overlap, and find the answers among their tokens.

    Args:
        questions: Questions with a context; to be learned from, they need spans.
        tokenizer: A fast tokenizer that joins two texts.
        max_length: Tokens of a window, with the question and the tokens between them.
        stride: Tokens of the context that neighbouring windows share.
        max_question_tokens: Of longer questions the beginning is kept, and they are counted.

    Raises:
        DataError: If a context is empty.
        ValueError: If there is no question, the tokenizer is slow, or a window has no room for more than it shares.

    Example:
        >>> from moesaic.data import train_reader_tokenizer
        >>> tokenizer = train_reader_tokenizer(["ann sang . who ?"], 60)
        >>> question = Question("Who?", "Ann sang. Ann sang.", ("Ann",), ((10, 13),))
        >>> windows = tokenize_spans([question], tokenizer, max_length=8, stride=1, max_question_tokens=2)
        >>> windows.question_index.tolist(), windows.spans.tolist()
        ([0, 0, 0], [[0, 0], [5, 5], [0, 0]])

    Reference: Devlin et al. (2019), section 4.2, https://arxiv.org/abs/1810.04805
    """
    _check_windows(questions, tokenizer, max_length, stride, max_question_tokens)
    cut, num_cut = _cut_questions(questions, tokenizer, max_question_tokens)
    encoded = tokenizer(
        cut,
        [question.context for question in questions],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        padding="max_length",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    in_context = torch.tensor(
        [[part == 1 for part in encoded.sequence_ids(window)] for window in range(len(encoded["input_ids"]))]
    )
    offsets = encoded["offset_mapping"] * in_context.unsqueeze(-1)
    question_index = encoded["overflow_to_sample_mapping"]
    may_answer = in_context.clone()
    may_answer[:, NO_ANSWER] = True
    return SpanWindows(
        encoded["input_ids"],
        encoded["attention_mask"],
        encoded.get("token_type_ids", torch.zeros_like(encoded["input_ids"])),
        may_answer,
        question_index,
        offsets,
        _align(questions, question_index, offsets, in_context),
        num_cut,
    )


def _check_windows(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    max_question_tokens: int,
) -> None:
    if not questions:
        raise ValueError("There is no question to read; give at least one.")
    if not tokenizer.is_fast or tokenizer.padding_side != "right":
        raise ValueError(
            f"{type(tokenizer).__name__} must be a fast tokenizer that pads on the right, since answers are found by "
            "the offsets of tokens. Use the tokenizer of a BERT-like encoder."
        )
    room = max_length - max_question_tokens - tokenizer.num_special_tokens_to_add(pair=True)
    if not 0 <= stride < room:
        raise ValueError(
            f"stride must be from 0 to {room - 1}: a window of max_length ({max_length}) tokens has room for {room} "
            f"beside a question of max_question_tokens ({max_question_tokens}), got {stride}."
        )
    for number, question in enumerate(questions):
        if not question.context.strip():
            raise DataError(
                f"Question {number} ({question.question!r}) has no context to read an answer in. Give it one, or have "
                "it answered by a model that writes."
            )


def _cut_questions(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[list[str], int]:
    texts = [question.question for question in questions]
    offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    is_long = [len(of_text) > max_tokens for of_text in offsets]
    cut = [
        text[: of_text[max_tokens - 1][1]] if long else text
        for text, of_text, long in zip(texts, offsets, is_long, strict=True)
    ]
    return cut, sum(is_long)


def _align(
    questions: Sequence[Question],
    question_index: Int[Tensor, " window"],
    offsets: Int[Tensor, "window position 2"],
    in_context: Bool[Tensor, "window position"],
) -> Int[Tensor, "window 2"]:
    """First and last token of the first answer that each window holds whole."""
    spans = torch.full((len(question_index), 2), NO_ANSWER)
    for window, question in enumerate(question_index.tolist()):
        positions = in_context[window].nonzero().squeeze(1)
        starts, ends = offsets[window, positions].unbind(-1)
        for start, end in questions[question].spans:
            if len(positions) and starts[0] <= start and end <= ends[-1]:
                inside = positions[(ends > start) & (starts < end)]
                if len(inside):
                    spans[window] = inside[[0, -1]]
                    break
    return spans


def best_spans(
    questions: Sequence[Question],
    windows: SpanWindows,
    log_probabilities: Float[Tensor, "window 2 position"],
    *,
    max_answer_tokens: int = 30,
    no_answer_margin: float | None = None,
    batch_size: int = 64,
) -> list[SpanAnswer]:
    """Take for each question the likeliest span of all its windows.

    Windows can be compared, since each was trained to say by ``NO_ANSWER`` that it does not hold the answer.

    Args:
        questions: The questions.
        windows: Their windows.
        log_probabilities: Of each position to begin the answer, and to end it.
        max_answer_tokens: Tokens of an answer at most.
        no_answer_margin: A question has no answer where that is likelier than the best span by more than this many
            nats, in the window that is least sure of it; without it every question is given an answer.
        batch_size: Windows searched at once.

    Returns:
        One answer a question, in their order.

    Reference: Rajpurkar et al. (2018), section 5 (the margin is their threshold), https://arxiv.org/abs/1806.03822
    """
    starts, ends, scores = _search(windows, log_probabilities, max_answer_tokens, batch_size)
    no_answer = log_probabilities[:, :, NO_ANSWER].sum(dim=1)
    answers = []
    sizes = windows.question_index.bincount(minlength=len(questions)).tolist()
    for question, own in zip(questions, torch.arange(len(windows)).split(sizes), strict=True):
        best = int(own[scores[own].argmax()])
        none, score = float(no_answer[own].min()), float(scores[best])
        start, end = int(windows.offsets[best, starts[best], 0]), int(windows.offsets[best, ends[best], 1])
        # Tokens of some tokenizers begin with the space before a word.
        text = question.context[start:end]
        start, end = start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))
        if no_answer_margin is not None and none - score > no_answer_margin:
            start = end = 0
        answers.append(SpanAnswer(question.context[start:end], start, end, best, score, none))
    return answers


def _search(
    windows: SpanWindows, log_probabilities: Float[Tensor, "window 2 position"], max_answer_tokens: int, batch_size: int
) -> tuple[Int[Tensor, " window"], Int[Tensor, " window"], Float[Tensor, " window"]]:
    """The likeliest span of each window that lies in its context: first position, last, and log-probability."""
    length = log_probabilities.shape[-1]
    allowed = torch.ones(length, length, dtype=torch.bool).triu().tril(max_answer_tokens - 1)
    places, scores = [], []
    for first in range(0, len(windows), batch_size):
        rows = slice(first, first + batch_size)
        in_context = windows.may_answer[rows].clone()
        in_context[:, NO_ANSWER] = False
        start, end = log_probabilities[rows].unbind(dim=1)
        joint = start.unsqueeze(2) + end.unsqueeze(1)  # (window, first position, last position)
        may_be = allowed & in_context.unsqueeze(2) & in_context.unsqueeze(1)
        score, place = joint.masked_fill(~may_be, -torch.inf).flatten(1).max(dim=1)
        places.append(place)
        scores.append(score)
    place = torch.cat(places)
    return place // length, place % length, torch.cat(scores)
