"""Answers that are read in a text, as spans of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from moesaic.answering.answerer import Answered, Answerer, describe_answerer, read_description
from moesaic.data import Pair
from moesaic.members import ModuleMember, SpanReader, TokenRouter, load_span_reader, read_spans
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import Question, SpanWindows, best_spans, question_of, tokenize_spans


@dataclass(frozen=True)
class SpanAnswerer(Answerer):
    """Reads the answer to a question in the text that it is about.

    Attributes:
        network: A :class:`moesaic.members.SpanReader`, or a mixture of some.
        tokenizer: The tokenizer that all of them share.
        max_length: Tokens of a window; longer texts are read in several.
        stride: Tokens that neighbouring windows share.
        max_answer_tokens: Tokens of an answer at most.
    """

    word: ClassVar[str] = "span_reader"

    network: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    stride: int
    max_answer_tokens: int = 30

    def answer(self, pairs: Sequence[Pair]) -> list[Answered]:
        """See :meth:`Answerer.answer`.

        Raises:
            DataError: If a question has no text to be answered from.
        """
        questions = [question_of(pair) for pair in pairs]
        windows = self.windows(questions)
        read = read_spans(self.network, windows)
        spans = best_spans(questions, windows, read.log_probabilities, max_answer_tokens=self.max_answer_tokens)
        if not self.chooses_one or read.weights is None:
            return [Answered(span.text) for span in spans]
        network: Any = self.network
        # All windows of a question are read by the same member.
        shares = read.weights[windows.first_windows.unique()].tolist()
        return [
            Answered(span.text, dict(zip(network.member_names, row, strict=True)))
            for span, row in zip(spans, shares, strict=True)
        ]

    def windows(self, questions: Sequence[Question]) -> SpanWindows:
        """Questions and their texts as the network reads them."""
        return tokenize_spans(questions, self.tokenizer, max_length=self.max_length, stride=self.stride)

    @property
    def chooses_one(self) -> bool:
        """See :attr:`Answerer.chooses_one`."""
        return isinstance(self.network, RoutedMixture)

    def save(self, folder: Path) -> None:
        """See :meth:`Answerer.save`; each member is a plain Transformers checkpoint in a folder of its own."""
        described: dict[str, Any] = {
            "type": self.word,
            "max_length": self.max_length,
            "stride": self.stride,
            "max_answer_tokens": self.max_answer_tokens,
        }
        if isinstance(self.network, RoutedMixture):
            network: Any = self.network
            for name, member in zip(network.member_names, network.members, strict=True):
                member.network.save_pretrained(folder / "members" / name)
            network.save_router(folder / "router")
            described["members"] = network.member_names
        else:
            assert isinstance(self.network, SpanReader)
            self.network.network.save_pretrained(folder / "reader")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        describe_answerer(folder, described)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See :meth:`Answerer.load`."""
        described = read_description(folder)
        described.pop("type")
        names = described.pop("members", None)
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        if names is None:
            return cls(load_span_reader(folder / "reader"), tokenizer, **described)
        members = [ModuleMember(name, load_span_reader(folder / "members" / name)) for name in names]
        router = TokenRouter(len(tokenizer), len(members))
        return cls(RoutedMixture.load(folder / "router", members, router).eval(), tokenizer, **described)
