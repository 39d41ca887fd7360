"""Documents to summarize, and the prompts that models are given about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from moesaic.errors import DataError
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


def summarization_prompt(
    document: Document, tokenizer: PreTrainedTokenizerBase | None = None, *, instruction: str = INSTRUCTION
) -> str:
    """What an abstractive model reads; causal and encoder-decoder models share it.

    The query stands before the document, and takes the place of the instruction. Where the tokenizer has a chat
    template, all of it is one turn of the user, and the model's turn follows; tokenize that without adding special
    tokens, since the template has put them there.

    Args:
        document: What is to be summarized; cut it first (:func:`moesaic.tasks.cut_documents`).
        tokenizer: The model's; without it, or without a template, the prompt is plain text that ends in "Summary:".
        instruction: What to do where there is no query; empty for a model that knows.

    Raises:
        DataError: If the chat template fails.

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
    if tokenizer is None or not tokenizer.chat_template:
        return f"{content}\n\nSummary:"
    try:
        turns = [{"role": "user", "content": content}]
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # a template is a program of its author's, and may raise anything
        raise DataError(
            f"The tokenizer's chat template fails on a turn of the user ({error}). Mend the template, or set "
            "tokenizer.chat_template to None to use plain prompts."
        ) from error
