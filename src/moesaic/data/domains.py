"""A domain: documents, deduplicated and split by their content."""

from __future__ import annotations

import hashlib
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
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    max_bytes: int | None = None,
) -> Domain:
    """Read a source into a domain.

    A document that stands in the source twice is kept once. Which split a document belongs to is decided by a hash of
    its content alone, so no document stands in two splits, whatever domain it came by and in whatever order.

    Args:
        name: What to call the domain.
        source: Where the documents come from.
        validation_fraction: Share of the documents for validation.
        test_fraction: Share of the documents for testing.
        max_bytes: Stop reading when this many bytes of UTF-8 are reached.

    Raises:
        DataError: If the source has no text.
    """
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    seen: set[bytes] = set()
    num_bytes = 0
    for document in source.documents():
        content = document.encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if not document.strip() or digest in seen:
            continue
        seen.add(digest)
        place = int.from_bytes(digest[:8]) / 2**64  # uniform in [0, 1)
        in_test, in_validation = place < test_fraction, place < test_fraction + validation_fraction
        splits["test" if in_test else "validation" if in_validation else "train"].append(document)
        num_bytes += len(content)
        if max_bytes is not None and num_bytes >= max_bytes:
            break
    if not seen:
        raise DataError(f"Domain {name!r} is empty: {source} has no text. Point it to documents.")
    return Domain(name, *(tuple(splits[split]) for split in ("train", "validation", "test")))
