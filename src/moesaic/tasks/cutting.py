"""Documents that are longer than a model can read are cut by a stated policy, and what was cut is counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from transformers import PreTrainedTokenizerBase

from moesaic.tasks.documents import Document
from moesaic.tasks.sentences import similarity_to

CutPolicy = Literal["head", "head_tail", "lead_by_query"]

Spans = Callable[[str], Sequence[tuple[int, int]]]
"""Where each token of a text begins and ends, in characters."""


@dataclass(frozen=True)
class DocumentsCut:
    """What was left out of documents that are too long; it prints as a sentence.

    Attributes:
        policy: How they were cut.
        max_tokens: Tokens of a document that are kept, at most.
        num_documents: Documents that were looked at.
        num_cut: Those that were cut.
        num_cut_by_head: Those among them that kept their first tokens because they have no query to be cut by.
        num_tokens: Tokens of all documents.
        num_tokens_left_out: Those that were left out.

    Example:
        >>> print(DocumentsCut("lead_by_query", 512, 10, 3, 1, 9000, 1500))
        Longer than 512 tokens, and cut (lead_by_query, 1 of them by head for want of a query): 3 of 10 documents;
        1,500 of 9,000 tokens are left out.
    """

    policy: CutPolicy
    max_tokens: int
    num_documents: int
    num_cut: int
    num_cut_by_head: int
    num_tokens: int
    num_tokens_left_out: int

    def __str__(self) -> str:
        if not self.num_cut:
            return f"None of {self.num_documents:,} documents is longer than {self.max_tokens:,} tokens."
        by_head = f", {self.num_cut_by_head:,} of them by head for want of a query" if self.num_cut_by_head else ""
        return (
            f"Longer than {self.max_tokens:,} tokens, and cut ({self.policy}{by_head}): {self.num_cut:,} of "
            f"{self.num_documents:,} documents; {self.num_tokens_left_out:,} of {self.num_tokens:,} tokens are left "
            "out."
        )


def cut_documents(
    documents: Sequence[Document],
    *,
    policy: CutPolicy,
    max_tokens: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[list[Document], DocumentsCut]:
    r"""Cut documents that have more tokens than a model can read.

    ``head`` keeps the first tokens. ``head_tail`` keeps as many of the beginning as of the end. ``lead_by_query`` keeps
    whole sentences, or turns: those most similar to the query, as many as fit, in the document's order; documents
    without a query are cut by ``head``, and counted.

    Args:
        documents: Those that are long enough to be cut, and others.
        policy: One of the three.
        max_tokens: Tokens of a document's text to keep, at most; leave room for the query and the rest of a prompt.
        tokenizer: A fast tokenizer, whose tokens are counted; without it words are.

    Returns:
        The documents, cut where necessary, and what was cut, to be printed.

    Raises:
        ValueError: If there is no such policy, ``max_tokens`` is not positive, or the tokenizer does not say where its
            tokens stand.

    Example:
        >>> (cut,), _ = cut_documents([Document("one two three four five")], policy="head_tail", max_tokens=2)
        >>> cut.text
        'one\nfive'
    """
    if policy not in get_args(CutPolicy):
        raise ValueError(f"policy must be one of {', '.join(get_args(CutPolicy))}, got {policy!r}.")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
    spans = _word_spans if tokenizer is None else _token_spans(tokenizer)
    kept, num_tokens, num_left_out, num_cut, num_by_head = [], 0, 0, 0, 0
    for document in documents:
        tokens = spans(document.text)
        num_tokens += len(tokens)
        if len(tokens) <= max_tokens:
            kept.append(document)
            continue
        by_query = policy == "lead_by_query" and bool(document.query)
        if by_query:
            text = _by_query(document, max_tokens, spans)
        else:
            text = _by_place(document.text, policy, max_tokens, spans)
        kept.append(replace(document, text=text))
        num_cut += 1
        num_by_head += policy == "lead_by_query" and not by_query
        num_left_out += len(tokens) - len(spans(text))
    report = DocumentsCut(policy, max_tokens, len(documents), num_cut, num_by_head, num_tokens, num_left_out)
    return kept, report


def _by_place(text: str, policy: CutPolicy, max_tokens: int, spans: Spans) -> str:
    tokens = spans(text)
    # The line break between the two ends may be a token itself.
    num_kept = max_tokens - len(spans("\n"))
    num_last = num_kept // 2
    if policy != "head_tail" or not num_last:
        return text[: tokens[max_tokens - 1][1]]
    return f"{text[: tokens[num_kept - num_last - 1][1]]}\n{text[tokens[-num_last][0] :].lstrip()}"


def _by_query(document: Document, max_tokens: int, spans: Spans) -> str:
    sentences = document.sentences
    # Turns are told apart by line breaks; the break or space between sentences is counted with the sentence before it.
    separator = "\n" if "\n" in document.text else " "
    lengths = [len(spans(sentence + separator)) for sentence in sentences]
    chosen, left = [], max_tokens
    order = np.argsort(-similarity_to(document.query, sentences), kind="stable").tolist()
    for index in order:
        if lengths[index] <= left:
            chosen.append(index)
            left -= lengths[index]
    # Where every sentence alone is too long, the beginning of the most similar one is kept.
    text = separator.join(sentences[index] for index in sorted(chosen)) or sentences[order[0]]
    tokens = spans(text)
    return text if len(tokens) <= max_tokens else text[: tokens[max_tokens - 1][1]]


def _word_spans(text: str) -> list[tuple[int, int]]:
    return [word.span() for word in re.finditer(r"\S+", text)]


def _token_spans(tokenizer: PreTrainedTokenizerBase) -> Spans:
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not say where its tokens stand in a text, as cutting needs it. Give a "
            "fast tokenizer, or none, to count words."
        )

    def spans(text: str) -> list[tuple[int, int]]:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(encoded["offset_mapping"])

    return spans
