"""Sources and targets: what models that translate, summarize or answer are trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from moesaic.data.domains import load_domain
from moesaic.data.sources import RowSource, Source
from moesaic.errors import DataError

TARGET_TOKEN = "target_token"
"""Key of a pair's details: the token of a decoder's own with which the target begins, where there is one."""


@dataclass(frozen=True)
class Pair:
    """A text and what is to be written about it.

    Attributes:
        source: What a model reads.
        references: What it is to write; where several answers are right, the first is the one to learn.
        text: The text that the task is about as it stood in the row, where something is taken from it: whole sentences,
            or a span.
        details: What else models read that take from the text, as JSON values: the query of a document, a question and
            where its answers stand.
        messages: The turns that end in the source, as dictionaries of ``role`` and ``content``, where there is more
            than that: a system's text, or what was said before. Models without a chat template read the source alone.
    """

    source: str
    references: tuple[str, ...]
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    messages: tuple[Mapping[str, str], ...] = field(default=(), hash=False)

    @property
    def target(self) -> str:
        """What a model learns to write."""
        return self.references[0]


ReadPair = Callable[[Mapping[str, Any], str], Pair]
"""Makes a pair of a row, which stands where the second argument says: a task's own."""


@dataclass(frozen=True)
class PairDomain:
    """Pairs of one kind: a language pair, a kind of document.

    Attributes:
        name: What the domain is called.
        train: What models are trained on.
        validation: What lengths, routers and thresholds are fitted on.
        test: What is measured on.
    """

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


def load_pair_domain(
    name: str,
    source: Source,
    read: ReadPair,
    *,
    validation: Source | None = None,
    test: Source | None = None,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    group_field: str | None = None,
) -> PairDomain:
    """Read rows into pairs, deduplicated and split as documents are (:func:`moesaic.data.load_domain`).

    Args:
        name: What to call the domain.
        source: Where the rows come from.
        read: Makes a pair of a row.
        validation: Where those for validation come from, if not from the same source.
        test: Where those for testing come from, if not from the same source.
        validation_fraction: Share of the rows for validation, where these have no source.
        test_fraction: Share of the rows for testing, where these have no source.
        group_field: A field of which rows with the same value come into the same split, in whichever domain they are.

    Raises:
        DataError: If a source has no rows, a row does not fit the task, or one lacks the field of its group.
    """
    given = {"source": source, "validation": validation, "test": test}
    as_text = {use: None if rows is None else _PairText(name, rows, read, group_field) for use, rows in given.items()}
    assert as_text["source"] is not None
    domain = load_domain(
        name,
        as_text["source"],
        validation=as_text["validation"],
        test=as_text["test"],
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        group_of=None if group_field is None else as_text["source"].groups.__getitem__,
    )
    splits = (domain.train, domain.validation, domain.test)
    return PairDomain(name, *(tuple(map(read_pair, split)) for split in splits))


@dataclass(frozen=True)
class _PairText:
    """Pairs as documents: one line of JSON each, so that they are told apart and split by all that they say.

    Attributes:
        groups: The group of every line that was read, where rows have groups.
    """

    name: str
    source: Source
    read: ReadPair
    group_field: str | None = None
    groups: dict[str, str] = field(default_factory=dict)

    def documents(self) -> Iterator[str]:
        if not isinstance(self.source, RowSource):
            raise DataError(
                f"Domain {self.name!r}: {self.source} has documents, and a task needs rows with fields. Use a source "
                "of the type jsonl, parquet or hub."
            )
        for place, row in self.source.rows():
            line = write_pair(self.read(row, place))
            if self.group_field is not None:
                if self.group_field not in row:
                    raise DataError(
                        f"{place}: there is no field {self.group_field!r}, by which rows are kept together; there are "
                        f"{', '.join(row)}."
                    )
                self.groups[line] = str(row[self.group_field])
            yield line

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def write_pair(pair: Pair) -> str:
    """A pair as one line of JSON."""
    values: dict[str, Any] = {"source": pair.source, "references": pair.references, "text": pair.text}
    if pair.details:
        values["details"] = pair.details
    if pair.messages:
        values["messages"] = pair.messages
    return json.dumps(values, ensure_ascii=False)


def read_pair(line: str) -> Pair:
    """Read what :func:`write_pair` gave."""
    values = json.loads(line)
    return Pair(
        values["source"],
        tuple(values["references"]),
        values["text"],
        values.get("details", {}),
        tuple(values.get("messages", ())),
    )
