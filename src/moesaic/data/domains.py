"""A domain: documents, deduplicated and split by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from moesaic.data.sources import Source
from moesaic.errors import DataError


@dataclass(frozen=True)
class Domain:
    """Documents of one kind.

    Attributes:
        name: What the domain is called.
        train: What models are trained on.
        validation: What routers and stackers may be fitted on.
        test: What is measured on.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __repr__(self) -> str:
        sizes = f"train={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        return f"Domain({self.name!r}, {sizes} documents)"


def load_domain(
    name: str,
    source: Source,
    *,
    validation: Source | None = None,
    test: Source | None = None,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    max_bytes: int | None = None,
    group_of: Callable[[str], str] | None = None,
) -> Domain:
    """Read a source into a domain.

    A document that stands in the source twice is kept once. Where a split has no source of its own, which split a
    document belongs to is decided by a hash of its content alone. Either way no document stands in two splits, whatever
    domain it came by and in whatever order.

    Args:
        name: What to call the domain.
        source: Where the documents come from.
        validation: Where those for validation come from, if not from the same source.
        test: Where those for testing come from, if not from the same source.
        validation_fraction: Share of the documents for validation, where these have no source.
        test_fraction: Share of the documents for testing, where these have no source.
        max_bytes: Stop reading a source when this many bytes of UTF-8 are reached.
        group_of: Says of a document what decides its split in place of its content; equal for those that belong
            together.

    Raises:
        DataError: If a source has no text.
    """
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    seen: set[bytes] = set()
    # What is to be measured on is read first, so that it is what training leaves out.
    for split, given in (("test", test), ("validation", validation)):
        if given is not None:
            splits[split] += [document for document, _ in _documents(name, given, seen, max_bytes)]
    test_end = test_fraction if test is None else 0.0
    validation_end = test_end + (validation_fraction if validation is None else 0.0)
    for document, place in _documents(name, source, seen, max_bytes):
        if group_of is not None:
            place = _place(hashlib.blake2b(group_of(document).encode(), digest_size=16).digest())
        splits["test" if place < test_end else "validation" if place < validation_end else "train"].append(document)
    return Domain(name, *(tuple(splits[split]) for split in ("train", "validation", "test")))


def _documents(name: str, source: Source, seen: set[bytes], max_bytes: int | None) -> Iterator[tuple[str, float]]:
    """The documents of a source that were not seen, each with a place in [0, 1) that its content alone decides."""
    num_bytes, is_empty = 0, True
    for document in source.documents():
        content = document.encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if not document.strip():
            continue
        is_empty = False
        if digest in seen:
            continue
        seen.add(digest)
        yield document, _place(digest)
        num_bytes += len(content)
        if max_bytes is not None and num_bytes >= max_bytes:
            break
    if is_empty:
        raise DataError(f"Domain {name!r} is empty: {source} has no text. Point it to documents.")


def _place(digest: bytes) -> float:
    return int.from_bytes(digest[:8]) / 2**64
