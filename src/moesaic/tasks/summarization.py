"""Summarization: a document into what is important about it, or about a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from moesaic.data import Pair
from moesaic.errors import DataError
from moesaic.tasks.documents import INSTRUCTION, Document, summarization_prompt
from moesaic.tasks.extractive import greedy_oracle, lead
from moesaic.tasks.generative import Answers, GenerativeTask, Measured, check_answers, compare_means, field
from moesaic.tasks.rouge import rouge

LEAD = "lead-3"
ORACLE = "extractive oracle"
"""What stands in every table of summaries: the document's first sentences, and its sentences chosen knowing the answer
(Nallapati et al. 2017, section 3, https://arxiv.org/abs/1611.04230)."""


@dataclass(frozen=True)
class Summarization(GenerativeTask):
    r"""Summarize; an expert is usually one of a kind of document.

    Attributes:
        document_field: The field that holds the document.
        summary_field: The field that holds the summary.
        references_field: The field that holds a list of several summaries; rows may lack it, and those that follow.
        query_field: The field that holds what the summary is to answer.
        title_field: The field that holds the title.
        domain_field: The field that holds the kind of document.
        instruction: What models are asked to do where there is no query; empty for models that know.

    Example:
        >>> task = Summarization(document_field="article", summary_field="highlights", instruction="")
        >>> pair = task.pair({"article": "It rained. It poured.", "highlights": "Rain."}, "news.jsonl, line 1")
        >>> pair.source, pair.references, pair.text
        ('It rained. It poured.\n\nSummary:', ('Rain.',), 'It rained. It poured.')
    """

    word: ClassVar[str] = "summarization"
    metrics: ClassVar[tuple[str, ...]] = ("ROUGE-1", "ROUGE-2", "ROUGE-Lsum")

    document_field: str = "document"
    summary_field: str = "summary"
    references_field: str = "references"
    query_field: str = "query"
    title_field: str = "title"
    domain_field: str = "domain"
    instruction: str = INSTRUCTION

    @property
    def main_field(self) -> str:
        """See :attr:`GenerativeTask.main_field`."""
        return self.document_field

    def document(self, row: Mapping[str, Any], place: str) -> Document:
        """A row as a document with its summaries.

        Raises:
            DataError: If the document or the summary is missing or empty, or a field holds something else than text.
        """
        return replace(self._unsummarized(row, place), references=self.references(row, place))

    def source(self, row: Mapping[str, Any], place: str) -> str:
        """See :meth:`GenerativeTask.source`; the row needs no summary."""
        return summarization_prompt(self._unsummarized(row, place), instruction=self.instruction)

    def references(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        """See :meth:`GenerativeTask.references`."""
        summary = field(row, self.summary_field, place).strip()
        values = row.get(self.references_field) or ()
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            raise DataError(f"{place}: the field {self.references_field!r} must be a list of texts, got {values!r}.")
        others = tuple(value.strip() for value in values if value.strip())
        return others if summary in others else (summary, *others)

    def ask(self, row: Mapping[str, Any], place: str) -> Pair:
        """See :meth:`GenerativeTask.ask`; the document itself goes with it, for what is taken from it whole."""
        document = self._unsummarized(row, place)
        details = {"query": document.query, "title": document.title}
        said = {name: text for name, text in details.items() if text}
        return replace(super().ask(row, place), text=document.text, details=said)

    def baselines(self, pairs: Sequence[Pair]) -> Answers:
        """See :meth:`GenerativeTask.baselines`: the first three sentences, and the best that extraction could do."""
        documents = [document_of(pair) for pair in pairs]
        return {
            LEAD: ["\n".join(document.take(lead(document))) for document in documents],
            ORACLE: ["\n".join(document.take(greedy_oracle(document))) for document in documents],
        }

    def compare(
        self, answers: Answers, pairs: Sequence[Pair], *, baseline: str | None = None, num_resamples: int = 1000
    ) -> dict[str, dict[str, Measured]]:
        """See :meth:`GenerativeTask.compare`; the mean over documents of each kind of ROUGE (:func:`rouge`).

        Raises:
            ValueError: If a system has not as many answers as there are pairs.
        """
        check_answers(answers, pairs)
        first = next(iter(answers)) if baseline is None else baseline
        scores = {
            system: [rouge(text, pair.references) for text, pair in zip(texts, pairs, strict=True)]
            for system, texts in answers.items()
        }
        measured: dict[str, dict[str, Measured]] = {system: {} for system in answers}
        for metric, attribute in zip(self.metrics, ("rouge1", "rouge2", "rouge_lsum"), strict=True):
            each = {system: np.array([getattr(one, attribute) for one in found]) for system, found in scores.items()}
            for system, made in compare_means(each, baseline=first, num_resamples=num_resamples).items():
                measured[system][metric] = made
        return measured

    def signatures(self) -> dict[str, str]:
        """See :meth:`GenerativeTask.signatures`."""
        how = f"rouge-score {version('rouge-score')}, F1, Porter stemmer, highest over references"
        return dict.fromkeys(self.metrics, how)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`GenerativeTask.arguments`."""
        return asdict(self)

    def _unsummarized(self, row: Mapping[str, Any], place: str) -> Document:
        text = field(row, self.document_field, place).strip()
        domain, query, title = (
            _optional(row, name, place) for name in (self.domain_field, self.query_field, self.title_field)
        )
        return Document(text, domain=domain, query=query, title=title)


def document_of(pair: Pair) -> Document:
    """The document that a pair of :class:`Summarization` is about, for models that take sentences from it.

    Example:
        >>> document_of(Summarization().pair({"document": "It rained.", "summary": "Rain.", "query": "Why?"}, "row 1"))
        Document(text='It rained.', references=('Rain.',), domain='', query='Why?', title='')
    """
    return Document(pair.text, references=pair.references, **pair.details)


def _optional(row: Mapping[str, Any], name: str, place: str) -> str:
    """A field of a row that may be missing or empty."""
    is_empty = row.get(name) is None or not str(row[name]).strip()
    return "" if is_empty else field(row, name, place).strip()
