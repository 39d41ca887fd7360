"""Vectors of words from texts without labels: words that stand beside the same words get near vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from moesaic.members.text_encoding import split_words

_SMOOTHING = 0.75
"""Power to which the counts of neighbours are raised: rare neighbours would look too telling."""


@dataclass(frozen=True)
class CooccurrenceVectors:
    """A vector for each word, learned by counting which words stand near it.

    Attributes:
        words: The words that have a vector, the most frequent first.
        vectors: One a word, each with a root mean square of 1, or zeros for a word without neighbours.

    Example:
        >>> texts = ["pay the bill", "pay the invoice", "play a song", "play a tune"] * 5
        >>> known = CooccurrenceVectors.from_texts(texts, width=2)
        >>> bill, invoice, song = (known.vectors[known.words.index(word)] for word in ("bill", "invoice", "song"))
        >>> bool(bill @ invoice > bill @ song)
        True

    References: Levy and Goldberg (2014), section 3; Levy et al. (2015), sections 3.1 and 3.3,
    https://aclanthology.org/Q15-1016
    """

    words: tuple[str, ...]
    vectors: Float[Tensor, "word width"]

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        width: int,
        window: int = 5,
        min_count: int = 2,
        max_words: int = 12_000,
        seed: int = 0,
    ) -> CooccurrenceVectors:
        """Learn the vectors: the positive pointwise mutual information of words and neighbours, factorized.

        Args:
            texts: What is counted; neighbours are of one text.
            width: Width of the vectors.
            window: Words to each side that are neighbours; one at distance d counts 1/d.
            min_count: Times that a word must occur to have a vector.
            max_words: Words that have a vector, at most.
            seed: Of the randomized factorization.

        Raises:
            ValueError: If there are fewer words than the vectors have elements.
        """
        split = [split_words(text) for text in texts]
        counts = Counter(word for words in split for word in words)
        kept = tuple(word for word, count in counts.most_common(max_words) if count >= min_count)
        if len(kept) < width:
            raise ValueError(
                f"Vectors of width {width} need at least as many words, and {len(kept)} occur {min_count} times or "
                "more. Give more texts, or a smaller width or min_count."
            )
        information = _positive_information(_count_neighbours(split, kept, window))
        left, singular_values, _ = randomized_svd(information, width, n_iter=3, random_state=seed)
        vectors = left * np.sqrt(singular_values)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-9)
        return cls(kept, torch.from_numpy(vectors / lengths * width**0.5).float())


def _count_neighbours(texts: list[list[str]], words: tuple[str, ...], window: int) -> Any:
    """How often each two words are neighbours, as a sparse symmetric matrix."""
    index = {word: place for place, word in enumerate(words)}
    gap = [-1] * window  # keeps the words of two texts apart
    places = np.array([place for text in texts for place in [*(index.get(word, -1) for word in text), *gap]])
    counts = sparse.csr_matrix((len(words), len(words)), dtype=np.float32)
    for distance in range(1, window + 1):
        first, second = places[:-distance], places[distance:]
        known = (first >= 0) & (second >= 0)
        nearness = np.full(known.sum(), 1 / distance, dtype=np.float32)
        counts = counts + sparse.csr_matrix((nearness, (first[known], second[known])), shape=counts.shape)
    return counts + counts.T


def _positive_information(counts: Any) -> Any:
    """Logarithm of how much more often two words are neighbours than by chance, where it is positive."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    smoothed = totals**_SMOOTHING
    pairs = counts.tocoo()
    by_chance = totals[pairs.row] * smoothed[pairs.col] / smoothed.sum()
    information = np.log(pairs.data / by_chance).clip(min=0)
    return sparse.csr_matrix((information, (pairs.row, pairs.col)), shape=counts.shape)
