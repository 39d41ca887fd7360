"""Answers that one of several models writes, each in its own tokens: the models meet at text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import PreTrainedTokenizerBase

from moesaic.answering.answerer import Answered, Answerer, describe_answerer, read_description
from moesaic.answering.writing import WritingAnswerer
from moesaic.data import Pair
from moesaic.members import Decoding, ModuleMember, TextClassifier
from moesaic.routed_mixture import RoutedMixture


@dataclass(frozen=True)
class RoutedWritingAnswerer(Answerer):
    """Has one of several models write each answer; they may differ in all, tokenizers included.

    Attributes:
        network: A mixture of them, whose router is a :class:`moesaic.members.TextClassifier` of what is asked.
        tokenizers: The tokenizer of each, by name.
        languages: The target languages that each learned to write, by name, where they translate.
        decoding: How they write; not saved.
    """

    word: ClassVar[str] = "routed_writing"

    network: RoutedMixture
    tokenizers: Mapping[str, PreTrainedTokenizerBase]
    languages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    decoding: Decoding = field(default_factory=Decoding)

    def answer(self, pairs: Sequence[Pair]) -> list[Answered]:
        """See :meth:`Answerer.answer`; each model reads its own rows only."""
        chosen = self._choose(pairs)
        answers: dict[int, Answered] = {}
        for number, (name, writer) in enumerate(self.writers().items()):
            rows = [row for row, member in enumerate(chosen) if member == number]
            shares = {other: float(other == name) for other in self.network.member_names}
            for row, answered in zip(rows, writer.answer([pairs[row] for row in rows]), strict=True):
                answers[row] = Answered(answered.text, shares)
        return [answers[row] for row in range(len(pairs))]

    def _choose(self, pairs: Sequence[Pair]) -> list[int]:
        """The number of the model that answers each row: of those that write its language, the router's choice.

        To the router the language is one word of many, and a text may be nearest to those that became another.
        """
        with torch.no_grad():
            scores = self.network.route([router_text(pair) for pair in pairs]).router_logits  # (row, member)
        for row, pair in zip(scores, pairs, strict=True):
            language = pair.details.get("language")
            writes = [language in self.languages.get(name, ()) for name in self.network.member_names]
            if any(writes):
                row.masked_fill_(~torch.tensor(writes, device=row.device), float("-inf"))
        return scores.argmax(dim=-1).tolist()

    def writers(self) -> dict[str, WritingAnswerer]:
        """The models, each by itself, by name."""
        members: Any = self.network.members
        named = zip(self.network.member_names, members, strict=True)
        return {name: WritingAnswerer(member, self.tokenizers[name], self.decoding) for name, member in named}

    @property
    def chooses_one(self) -> bool:
        """See :attr:`Answerer.chooses_one`."""
        return True

    def save(self, folder: Path) -> None:
        """See :meth:`Answerer.save`; each model is a plain Transformers checkpoint in a folder of its own."""
        for name, writer in self.writers().items():
            writer.save(folder / "members" / name)
        router: Any = self.network.router
        router.save(folder / "router")
        described = {"members": self.network.member_names, "languages": self.languages}
        describe_answerer(folder, {"type": self.word, **described})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See :meth:`Answerer.load`."""
        described = read_description(folder)
        writers = {name: WritingAnswerer.load(folder / "members" / name) for name in described["members"]}
        return cls.combine(writers, TextClassifier.load(folder / "router"), described.get("languages", {}))

    @classmethod
    def combine(
        cls,
        writers: Mapping[str, WritingAnswerer],
        router: TextClassifier,
        languages: Mapping[str, Sequence[str]],
    ) -> Self:
        """Several models and a router that knows them in their order; they write as the first does."""
        members = [ModuleMember(name, writer.network) for name, writer in writers.items()]
        tokenizers = {name: writer.tokenizer for name, writer in writers.items()}
        decoding = next(iter(writers.values())).decoding
        return cls(RoutedMixture(members, router, top_k=1).eval(), tokenizers, languages, decoding)


def router_text(pair: Pair) -> str:
    """What a router over text reads: the source, and before it the language that it is to be translated into, if any.

    A model of one language pair reads the sentence alone, which does not say whose it is.

    Example:
        >>> router_text(Pair("A dog.", (), details={"language": "de"}))
        '<2de> A dog.'
    """
    language = pair.details.get("language")
    return pair.source if language is None else f"<2{language}> {pair.source}"
