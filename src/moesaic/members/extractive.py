"""Summaries taken from documents, by one scorer of sentences or by a mixture of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moesaic.members.sentence_scorers import sentence_mask
from moesaic.tasks import Document, SummaryLength, overlap, pick_sentences

LENGTHS = tuple(
    SummaryLength(max_sentences, max_words)
    for max_sentences in (1, 2, 3, 4, 6, 9, 12)
    for max_words in (None, 15, 30, 60, 90)
)
"""Lengths that are tried on validation documents."""

THREE_SENTENCES = SummaryLength(3)
"""As long as the usual baseline, the first three sentences."""


@dataclass(frozen=True)
class ScoredDocument:
    """What a summary is taken from.

    Attributes:
        scores: One a sentence; their softmax is a distribution.
        weights: What each member counted for, in the members' order; empty where a single one was asked.
    """

    scores: Float[Tensor, " sentence"]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class ExtractiveSummary:
    """A summary, and why; it prints as its text.

    Attributes:
        sentences: What was taken, in the document's order.
        positions: Where these sentences stand in the document.
        weights: What each member counted for, by name; empty where a single one was asked.
    """

    sentences: tuple[str, ...]
    positions: tuple[int, ...]
    weights: dict[str, float]

    def __str__(self) -> str:
        return " ".join(self.sentences)


@torch.no_grad()
def score_documents(network: nn.Module, documents: Sequence[Document], *, batch_size: int = 16) -> list[ScoredDocument]:
    """Have a scorer, or a mixture of scorers, read documents, in evaluation mode.

    Args:
        network: A :class:`SentenceScorer`, or a mixture of these (:class:`moesaic.RoutedMixture`,
            :class:`moesaic.ModuleMixture`).
        documents: What is to be summarized.
        batch_size: Documents read at once; those with about as many sentences go together.

    Raises:
        ValueError: If a document has no sentence.
    """
    was_training = network.training
    network.eval()
    order = sorted(range(len(documents)), key=lambda index: len(documents[index].sentences))
    found: dict[int, ScoredDocument] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = [documents[row] for row in rows]
        mask = sentence_mask(batch)
        output: Any = network(batch, mask)
        logits = (output if isinstance(output, Tensor) else output.logits).float().cpu()
        routing = getattr(output, "routing", None)
        weights = [()] * len(rows) if routing is None else [tuple(row) for row in routing.weights.tolist()]
        for place, row in enumerate(rows):
            found[row] = ScoredDocument(logits[place, mask[place]], weights[place])
    network.train(was_training)
    return [found[row] for row in range(len(documents))]


def choose_length(
    scored: Sequence[ScoredDocument],
    documents: Sequence[Document],
    *,
    lengths: Sequence[SummaryLength] = LENGTHS,
    block_trigrams: bool = False,
) -> SummaryLength:
    """The length whose summaries overlap most with what people wrote (:func:`moesaic.tasks.overlap`).

    Args:
        scored: What a scorer says of validation documents.
        documents: These documents, with their references.
        lengths: What to choose from; the first of those that are as good.
        block_trigrams: See :func:`moesaic.tasks.pick_sentences`.

    Raises:
        ValueError: If there is no document.
    """
    if not documents:
        raise ValueError("A length is chosen on validation documents, and there are none. Set some aside.")

    def value(length: SummaryLength) -> float:
        return sum(
            overlap(_take(document, made, length, block_trigrams=block_trigrams).sentences, document.references)
            for document, made in zip(documents, scored, strict=True)
        )

    return max(lengths, key=value)


def _take(
    document: Document,
    scored: ScoredDocument,
    length: SummaryLength,
    *,
    block_trigrams: bool = False,
    member_names: Sequence[str] = (),
) -> ExtractiveSummary:
    positions = pick_sentences(document, scored.scores.tolist(), length, block_trigrams=block_trigrams)
    weights = dict(zip(member_names, scored.weights, strict=True)) if scored.weights and member_names else {}
    return ExtractiveSummary(document.take(positions), positions, weights)


class ExtractiveSummarizer:
    """Summarizes documents by their own sentences.

    Args:
        network: A :class:`SentenceScorer`, or a mixture of these.
        length: When a summary is long enough; for a mixture also one a member, by name, of which that of the member
            with the highest weight counts: an expert knows how long the summaries of its domain are.
        block_trigrams: Leave out a sentence that shares three words in a row with one taken before.

    Raises:
        ValueError: If lengths are given by name, and the members are called otherwise.

    Example:
        >>> from moesaic.members import SentenceScorer
        >>> summarizer = ExtractiveSummarizer(SentenceScorer(), SummaryLength(1))
        >>> (summary,) = summarizer([Document("It rained.")])
        >>> print(summary)
        It rained.
    """

    def __init__(
        self,
        network: nn.Module,
        length: SummaryLength | Mapping[str, SummaryLength] = THREE_SENTENCES,
        *,
        block_trigrams: bool = False,
    ) -> None:
        self.network = network
        self.member_names: list[str] = list(getattr(network, "member_names", []))
        if isinstance(length, Mapping) and set(length) != set(self.member_names):
            raise ValueError(
                f"There are lengths for {', '.join(length) or 'nobody'}, and the members are "
                f"{', '.join(self.member_names) or 'a single one'}. Give one length, or one a member by its name."
            )
        self.length = length
        self.block_trigrams = block_trigrams

    def __call__(self, documents: Sequence[Document], *, batch_size: int = 16) -> list[ExtractiveSummary]:
        """Summarize documents.

        Args:
            documents: What is to be summarized; long ones may be cut first (:func:`moesaic.tasks.cut_documents`).
            batch_size: Documents read at once.

        Raises:
            ValueError: If a document has no sentence.
        """
        return [
            _take(
                document,
                scored,
                self.length_of(scored),
                block_trigrams=self.block_trigrams,
                member_names=self.member_names,
            )
            for document, scored in zip(
                documents, score_documents(self.network, documents, batch_size=batch_size), strict=True
            )
        ]

    def length_of(self, scored: ScoredDocument) -> SummaryLength:
        """How long the summary of a document is to be."""
        if isinstance(self.length, SummaryLength):
            return self.length
        heaviest = max(range(len(scored.weights)), key=lambda member: scored.weights[member])
        return self.length[self.member_names[heaviest]]
