"""Documents to summarize, and the prompts that models are given about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from moesaic.tasks.sentences import split_sentences


@dataclass(frozen=True)
class Document:
    """A text to summarize, and what people wrote about it.

    Attributes:
        text: The document.
        references: Summaries of it; where there are several, the first is the one to learn.
        domain: What kind of document it is.
        query: What the summary is to answer, where it is about a part of the document.
        title: The document's title.
    """

    text: str
    references: tuple[str, ...] = ()
    domain: str = ""
    query: str = ""
    title: str = ""

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The document in sentences, or in turns; see :func:`split_sentences`."""
        return split_sentences(self.text)

    def take(self, positions: Iterable[int]) -> tuple[str, ...]:
        """Some of its sentences, such as those of a summary."""
        return tuple(self.sentences[position] for position in positions)

    @property
    def source(self) -> str:
        r"""What a router reads: the query before the document, so that cutting the end never cuts the query.

        Example:
            >>> Document("Ada: Hello.", query="Who speaks?").source
            'Who speaks?\nAda: Hello.'
        """
        return f"{self.query}\n{self.text}" if self.query else self.text


INSTRUCTION = "Summarize the text."
"""What a model is asked to do where the document comes without a query."""


def summarization_prompt(document: Document, *, instruction: str = INSTRUCTION) -> str:
    """What an abstractive model reads; causal and encoder-decoder models share it.

    The query stands before the document, and takes the place of the instruction.

    Args:
        document: What is to be summarized; cut it first (:func:`moesaic.tasks.cut_documents`).
        instruction: What to do where there is no query; empty for a model that knows.

    Example:
        >>> print(summarization_prompt(Document("It rained all day.", title="Weather")))
        Summarize the text.
        <BLANKLINE>
        Weather
        It rained all day.
        <BLANKLINE>
        Summary:
    """
    text = f"{document.title}\n{document.text}" if document.title else document.text
    asked = document.query or instruction
    content = f"{asked}\n\n{text}" if asked else text
    return f"{content}\n\nSummary:"
