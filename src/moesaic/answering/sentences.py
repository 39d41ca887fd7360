"""Summaries that are taken from documents sentence by sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from moesaic.answering.answerer import Answered, Answerer, describe_answerer, read_description
from moesaic.data import Pair
from moesaic.members import DocumentRouter, ExtractiveSummarizer, ModuleMember, SentenceScorer, TextClassifier
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import CutPolicy, Document, SummaryLength, cut_documents, document_of


@dataclass(frozen=True)
class SentenceAnswerer(Answerer):
    """Takes sentences of a document for its summary.

    Attributes:
        network: A :class:`moesaic.members.SentenceScorer`, or a mixture of some.
        length: How long summaries are; for a mixture also one a member, by name.
        cut: How documents are cut that are too long (:func:`moesaic.tasks.cut_documents`).
        max_words: Words of a document that are read.

    Example:
        >>> answerer = SentenceAnswerer(SentenceScorer(), SummaryLength(1), "head", max_words=100)
        >>> answerer.answer([Pair("It rained.", (), text="It rained.")])[0].text
        'It rained.'
    """

    word: ClassVar[str] = "sentence_scorer"

    network: nn.Module
    length: SummaryLength | Mapping[str, SummaryLength]
    cut: CutPolicy
    max_words: int

    def answer(self, pairs: Sequence[Pair]) -> list[Answered]:
        """See :meth:`Answerer.answer`; a sentence a line."""
        documents, _ = cut_documents([document_of(pair) for pair in pairs], policy=self.cut, max_tokens=self.max_words)
        return self.summarize(documents)

    def summarize(self, documents: Sequence[Document]) -> list[Answered]:
        """Summarize documents that are cut already."""
        summaries = ExtractiveSummarizer(self.network, self.length)(documents)
        return [
            Answered("\n".join(summary.sentences), summary.weights if self.chooses_one else {}) for summary in summaries
        ]

    @property
    def chooses_one(self) -> bool:
        """See :attr:`Answerer.chooses_one`."""
        return isinstance(self.network, RoutedMixture)

    def save(self, folder: Path) -> None:
        """See :meth:`Answerer.save`; each member has a folder of its own."""
        described: dict[str, Any] = {"type": self.word, "cut": self.cut, "max_words": self.max_words}
        if isinstance(self.network, RoutedMixture):
            assert isinstance(self.length, Mapping)
            network: Any = self.network
            for name, member in zip(network.member_names, network.members, strict=True):
                member.save(folder / "members" / name)
            network.router.classifier.save(folder / "router")
            described["lengths"] = {name: asdict(self.length[name]) for name in network.member_names}
        else:
            assert isinstance(self.network, SentenceScorer) and isinstance(self.length, SummaryLength)
            self.network.save(folder / "scorer")
            described["length"] = asdict(self.length)
        describe_answerer(folder, described)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See :meth:`Answerer.load`."""
        described = read_description(folder)
        cut, max_words = described["cut"], described["max_words"]
        if "length" in described:
            return cls(SentenceScorer.load(folder / "scorer"), SummaryLength(**described["length"]), cut, max_words)
        lengths = {name: SummaryLength(**length) for name, length in described["lengths"].items()}
        members = [ModuleMember(name, SentenceScorer.load(folder / "members" / name)) for name in lengths]
        router = DocumentRouter(TextClassifier.load(folder / "router"))
        return cls(RoutedMixture(members, router, top_k=1).eval(), lengths, cut, max_words)
