"""Bootstrap samples, folds, and whether a row was seen: which rows a member is trained on, and which it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from moesaic.data.batches import PackedDocuments
from moesaic.errors import LeakageError

Rows = NDArray[np.int64]
"""Numbers of rows (documents or examples), counted from 0."""


def bootstrap(num_rows: int, *, seed: int, max_samples: float = 1.0, replace: bool = True) -> Rows:
    """Draw the rows that one bagged member is trained on.

    Args:
        num_rows: Number of rows to draw from.
        seed: Makes the draw.
        max_samples: Rows drawn, as a share of ``num_rows``.
        replace: Draw with replacement. Without it and with ``max_samples=1`` every row is drawn once, in order.

    Raises:
        ValueError: If ``max_samples`` is not above 0, or above 1 without replacement.

    Example:
        >>> bootstrap(6, seed=0)
        array([0, 1, 1, 3, 3, 5])
        >>> bootstrap(6, seed=0, replace=False)
        array([0, 1, 2, 3, 4, 5])

    Reference: Breiman (1996), Bagging predictors, section 1.
    """
    if max_samples <= 0 or (max_samples > 1 and not replace):
        raise ValueError(
            f"max_samples must be above 0, and at most 1 where rows are drawn without replacement, got {max_samples}."
        )
    count = max(1, round(num_rows * max_samples))
    return np.sort(np.random.default_rng(seed).choice(num_rows, size=count, replace=replace))


def out_of_bag(num_rows: int, drawn: Rows) -> Rows:
    """The rows that a bootstrap did not draw.

    Example:
        >>> out_of_bag(6, np.array([0, 0, 3, 3, 4, 5]))
        array([1, 2])
    """
    return np.setdiff1d(np.arange(num_rows), drawn)


def folds(num_rows: int, num_folds: int, *, seed: int, labels: Sequence[object] | None = None) -> list[Rows]:
    """Share rows out among folds of nearly the same size, each label evenly.

    Args:
        num_rows: Number of rows.
        num_folds: Number of folds.
        seed: Makes the order in which rows are dealt out.
        labels: A label or domain a row; every fold then gets its share of each.

    Raises:
        ValueError: If there are fewer than two folds, or fewer rows (of some label) than folds: a fold would be
            without rows of that label.

    Example:
        >>> folds(5, 2, seed=0)
        [array([1, 2, 3]), array([0, 4])]
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be 2 or more, got {num_folds}.")
    groups: dict[object, list[int]] = {}
    for row in range(num_rows):
        groups.setdefault(None if labels is None else labels[row], []).append(row)
    generator = np.random.default_rng(seed)
    dealt: list[list[int]] = [[] for _ in range(num_folds)]
    turn = 0
    for label, rows in groups.items():
        if len(rows) < num_folds:
            whose = "" if labels is None else f" of {label!r}"
            raise ValueError(
                f"{num_folds} folds need at least {num_folds} rows{whose}, got {len(rows)}: some fold would have none. "
                "Use fewer folds, or more rows."
            )
        for row in generator.permutation(rows).tolist():
            dealt[turn % num_folds].append(row)
            turn += 1
    return [np.sort(np.array(rows, dtype=np.int64)) for rows in dealt]


def take_documents(packed: PackedDocuments, rows: Rows) -> PackedDocuments:
    """Some of the documents, in that order; a document that is drawn twice stands there twice."""
    ends = torch.cat([packed.document_starts[1:], torch.tensor([len(packed.tokens)])])
    starts = packed.document_starts.tolist()
    pieces = [packed.tokens[starts[row] : ends[row]] for row in rows.tolist()]
    lengths = torch.tensor([len(piece) for piece in pieces], dtype=torch.int64)
    tokens = torch.cat(pieces) if pieces else packed.tokens[:0]
    return PackedDocuments(tokens, lengths.cumsum(0) - lengths, packed.document_bytes[torch.from_numpy(rows)])


def fingerprints(rows: Iterable[bytes]) -> frozenset[bytes]:
    """A short hash of every row, by which it is known again whatever file or order it comes in."""
    return frozenset(hashlib.blake2b(row, digest_size=16).digest() for row in rows)


def document_fingerprints(packed: PackedDocuments) -> frozenset[bytes]:
    """The fingerprint of every document, of its tokens."""
    return fingerprints(document.numpy().tobytes() for document in packed.documents())


def check_unseen(seen: Mapping[str, frozenset[bytes]], held_out: frozenset[bytes]) -> None:
    """Refuse to fit a stacker on rows that a member was trained on.

    A member is surer of the rows that it has seen than of any others, so weights fitted there trust it too much.

    Args:
        seen: Fingerprints of the rows that each member was trained on, by its name.
        held_out: Fingerprints of the rows on which the stacker is to be fitted.

    Raises:
        LeakageError: Naming every member that has seen some of them, and how many.
        ValueError: If no row is held out.
    """
    if not held_out:
        raise ValueError(
            "A stacker is fitted on rows that no member was trained on, and there are none. Set some aside (raise "
            "data.validation_fraction), or predict out of fold."
        )
    leaks = {name: len(rows & held_out) for name, rows in seen.items() if rows & held_out}
    if leaks:
        listed = ", ".join(f"{name} has seen {count}" for name, count in leaks.items())
        raise LeakageError(
            f"A stacker must be fitted on rows that no member was trained on; of these {len(held_out)}, {listed}. Fit "
            "it on other rows, or on out-of-fold predictions."
        )
