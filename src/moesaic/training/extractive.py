"""Training scorers of sentences: they learn which ones an oracle takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.data.examples import check_batch_size, draw_rows
from moesaic.errors import DataError
from moesaic.members import sentence_mask
from moesaic.tasks import Document, greedy_oracle
from moesaic.training.classification import logits_of
from moesaic.training.loop import fit
from moesaic.training.objectives import Losses
from moesaic.training.options import TrainingOptions
from moesaic.training.records import OnStep, StepRecord


@dataclass(frozen=True)
class LabelledDocuments:
    """Documents, and the sentences that their summaries should have; it prints as a sentence.

    Attributes:
        documents: What a scorer learns from.
        oracles: Positions of these sentences; none of them is empty.
        num_left_out: Documents that were left out, since no sentence shares a word with a summary.
    """

    documents: tuple[Document, ...]
    oracles: tuple[tuple[int, ...], ...]
    num_left_out: int = 0

    def __len__(self) -> int:
        return len(self.documents)

    def __str__(self) -> str:
        return f"{len(self):,} documents; {self.num_left_out:,} left out that share no word with their summary"

    def __add__(self, other: LabelledDocuments) -> LabelledDocuments:
        return LabelledDocuments(
            self.documents + other.documents, self.oracles + other.oracles, self.num_left_out + other.num_left_out
        )


def label_documents(documents: Sequence[Document], *, max_sentences: int | None = None) -> LabelledDocuments:
    """Find the sentences that a scorer is to prefer (:func:`moesaic.tasks.greedy_oracle`).

    Args:
        documents: Have references.
        max_sentences: Sentences of a summary at most.

    Raises:
        ValueError: If a document has no reference.

    Example:
        >>> print(label_documents([Document("It rained. Nobody minded.", references=("Rain? It rained.",))]))
        1 documents; 0 left out that share no word with their summary
    """
    oracles = [greedy_oracle(document, max_sentences=max_sentences) for document in documents]
    kept = [(document, oracle) for document, oracle in zip(documents, oracles, strict=True) if oracle]
    return LabelledDocuments(
        tuple(document for document, _ in kept), tuple(oracle for _, oracle in kept), len(documents) - len(kept)
    )


@dataclass(frozen=True)
class DocumentBatch:
    """Documents to train on.

    Attributes:
        documents: What is read.
        mask: Where they have sentences.
        targets: 1 for the sentences that a summary should have, 0 for others.
    """

    documents: tuple[Document, ...]
    mask: Bool[Tensor, "document sentence"]
    targets: Float[Tensor, "document sentence"]

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.targets.device

    def rows(self, first: int, end: int) -> DocumentBatch:
        """The documents from one row to before another."""
        return DocumentBatch(self.documents[first:end], self.mask[first:end], self.targets[first:end])

    def to(self, device: Any) -> DocumentBatch:
        """The batch on another device."""
        return DocumentBatch(self.documents, self.mask.to(device), self.targets.to(device))


@dataclass(frozen=True, eq=False)
class DocumentSampler:
    """Draws the batch of each step: every document once in an epoch, those with about as many sentences together.

    A batch is a function of the seed and the step alone.

    Attributes:
        labelled: The documents.
        batch_size: Documents in a batch.
        seed: Makes the order.

    Raises:
        DataError: If there are fewer documents than a batch has.
    """

    labelled: LabelledDocuments
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        check_batch_size(self)

    @property
    def num_rows(self) -> int:
        """Number of documents."""
        return len(self.labelled)

    @cached_property
    def lengths(self) -> Int[Tensor, " row"]:
        """Sentences of each document."""
        return torch.tensor([len(document.sentences) for document in self.labelled.documents])

    def batch(self, step: int) -> DocumentBatch:
        """The batch of a step."""
        rows = draw_rows(self, step).tolist()
        documents = tuple(self.labelled.documents[row] for row in rows)
        mask = sentence_mask(documents)
        targets = torch.zeros(mask.shape)
        for place, row in enumerate(rows):
            targets[place, list(self.labelled.oracles[row])] = 1
        return DocumentBatch(documents, mask, targets)


def sentence_ranking(network: Any, batch: DocumentBatch) -> Losses:
    """Cross-entropy between the distribution over a document's sentences and an even one over those of the oracle.

    A mixture learns by it like a single scorer: router and members are trained by what they say together.

    Reference: Cao et al. (2007), Learning to rank: from pairwise approach to listwise approach, section 4.
    """
    log_probabilities = logits_of(network(batch.documents, batch.mask)).float().log_softmax(dim=-1)
    targets = batch.targets / batch.targets.sum(dim=-1, keepdim=True)
    # Minus infinity where there is no sentence; nothing is asked of it.
    nats = -(targets * log_probabilities.masked_fill(~batch.mask, 0)).sum(dim=-1).mean()
    return Losses(nats, {"nats": nats})


def fit_sentence_scorer(
    network: nn.Module, labelled: LabelledDocuments, options: TrainingOptions, *, on_step: OnStep | None = None
) -> list[StepRecord]:
    """Train a scorer of sentences in place, or a mixture of several, router and members together.

    Args:
        network: A :class:`moesaic.members.SentenceScorer`, or a mixture of these.
        labelled: What it learns from.
        options: How; by ``learning_rate_scales`` parts are frozen, such as ``{"members.*": 0}``.
        on_step: Told of every step.

    Raises:
        DataError: If there is no document, or fewer than a batch has.

    Example:
        >>> from moesaic.members import SentenceScorer
        >>> reports = [Document(f"Rain fell. {name} watched. So it goes.", (f"{name} watched.",)) for name in "ABCD"]
        >>> options = TrainingOptions(num_steps=30, batch_size=4, learning_rate=1e-2)
        >>> history = fit_sentence_scorer(SentenceScorer(), label_documents(reports), options)
        >>> history[-1].loss < history[0].loss
        True
    """
    if not len(labelled):
        raise DataError(
            f"There is no document to learn from: {labelled.num_left_out} share no word with their summary. Check that "
            "documents and summaries are of the same language."
        )
    sampler = DocumentSampler(labelled, options.batch_size, options.seed)
    return fit(network, sampler, sentence_ranking, options, on_step=on_step)
