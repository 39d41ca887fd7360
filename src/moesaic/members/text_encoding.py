"""Texts as numbers, for classifiers that are trained from scratch: words with their pieces, or hashed n-grams."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD = re.compile(r"\w+|[^\w\s]")
_PADDING, _UNKNOWN, _FIRST_WORD = 0, 1, 2


class TextEncoder(Protocol):
    """Turns texts into what a network reads; knows a vocabulary, and nothing of labels."""

    @property
    def num_embeddings(self) -> int:
        """Number of rows that an embedding of these numbers must have."""
        ...

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Encode texts, one a row; the number 0 is padding."""
        ...

    def arguments(self) -> dict[str, Any]:
        """What makes this encoder again, as JSON values."""
        ...


def split_words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks.

    Example:
        >>> split_words("What's my balance?")
        ['what', "'", 's', 'my', 'balance', '?']
    """
    return _WORD.findall(text.lower())


def character_ngrams(word: str, shortest: int, longest: int) -> Iterator[str]:
    """The parts of a word of each length, its beginning and end marked.

    Example:
        >>> list(character_ngrams("pay", 3, 4))
        ['<pa', 'pay', 'ay>', '<pay', 'pay>']
    """
    marked = f"<{word}>"
    for length in range(shortest, longest + 1):
        for start in range(len(marked) - length + 1):
            yield marked[start : start + length]


def _bucket(ngram: str, num_buckets: int) -> int:
    # CRC-32, because Python's own hash of a string changes from run to run.
    return zlib.crc32(ngram.encode()) % num_buckets


@dataclass(frozen=True)
class WordEncoder:
    """Words, each as a number of its own and the hashed numbers of its character n-grams.

    A word that was never seen still has its n-grams, and so a place near words that are spelled alike.

    Attributes:
        vocabulary: The words that have a number.
        num_buckets: Numbers that all character n-grams share.
        shortest: Characters in the shortest n-gram, marks of beginning and end included.
        longest: Characters in the longest n-gram.
        max_words: Words that are read of a text.
        max_pieces: Numbers a word has at most.

    Example:
        >>> encoder = WordEncoder.from_texts(["pay the bill"], num_buckets=100)
        >>> [tensor.shape for tensor in encoder(["pay bills now"])]
        [torch.Size([1, 32, 20])]

    Reference: Bojanowski et al. (2017), section 3.2, https://arxiv.org/abs/1607.04606
    """

    vocabulary: tuple[str, ...]
    num_buckets: int = 8192
    shortest: int = 3
    longest: int = 5
    max_words: int = 32
    max_pieces: int = 20
    _index: dict[str, int] = field(init=False, repr=False, compare=False)
    _encoded: dict[str, list[int]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        object.__setattr__(self, "_index", {word: _FIRST_WORD + place for place, word in enumerate(self.vocabulary)})

    @classmethod
    def from_texts(cls, texts: Iterable[str], **arguments: Any) -> WordEncoder:
        """Know the words of these texts."""
        return cls(tuple(sorted({word for text in texts for word in split_words(text)})), **arguments)

    @property
    def num_embeddings(self) -> int:
        """See :class:`TextEncoder`."""
        return _FIRST_WORD + len(self.vocabulary) + self.num_buckets

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "row word piece"]]:
        """See :class:`TextEncoder`; the first number of each word is the word's own."""
        pieces = torch.zeros(len(texts), self.max_words, self.max_pieces, dtype=torch.int32)
        for row, text in enumerate(texts):
            # A text without a word is one unknown word, so that every text has something to read.
            words = [self._encode(word) for word in split_words(text)[: self.max_words]] or [self._encode("")]
            pieces[row, : len(words)] = torch.tensor(words, dtype=torch.int32)
        return (pieces,)

    def _encode(self, word: str) -> list[int]:
        if word not in self._encoded:
            first_bucket = _FIRST_WORD + len(self.vocabulary)
            ngrams = character_ngrams(word, self.shortest, self.longest)
            hashed = [first_bucket + _bucket(ngram, self.num_buckets) for ngram in ngrams]
            pieces = [self._index.get(word, _UNKNOWN), *hashed][: self.max_pieces]
            self._encoded[word] = pieces + [_PADDING] * (self.max_pieces - len(pieces))
        return self._encoded[word]

    def arguments(self) -> dict[str, Any]:
        """See :class:`TextEncoder`."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}


@dataclass(frozen=True)
class NgramEncoder:
    """Hashed n-grams of words and of characters, and pairs of words, weighted by TF-IDF.

    Each of the three kinds weighs the same in a text, however many there are of it. Pairs are of words anywhere in the
    text, each known by how it begins: "change my password" and "passwords I want changed" share one.

    Attributes:
        document_counts: In how many of the texts that it was made from each bucket occurs.
        num_documents: Number of these texts.
        word_ngrams: Words in the longest n-gram of words.
        shortest: Characters in the shortest n-gram within a word, marks of beginning and end included.
        longest: Characters in the longest n-gram.
        pair_prefix: Characters by which a word of a pair is known; 0 for no pairs.
        max_ngrams: Different n-grams that are read of a text; the heaviest are kept.

    Example:
        >>> encoder = NgramEncoder.from_texts(["pay the bill", "pay me"], num_buckets=50)
        >>> buckets, weights = encoder(["pay the rent"])
        >>> weights.norm(dim=1)
        tensor([1.])

    Reference: Weinberger et al. (2009), section 2, https://arxiv.org/abs/0902.2206
    """

    document_counts: tuple[int, ...]
    num_documents: int
    word_ngrams: int = 2
    shortest: int = 2
    longest: int = 4
    pair_prefix: int = 4
    max_ngrams: int = 320
    _within: dict[str, list[int]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "document_counts", tuple(self.document_counts))

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, num_buckets: int = 2**15, **arguments: Any) -> NgramEncoder:
        """Count in how many of these texts each bucket occurs."""
        empty = cls((0,) * num_buckets, 0, **arguments)
        counts = [0] * num_buckets
        num_documents = 0
        for text in texts:
            num_documents += 1
            for bucket in {bucket for kind in empty._kinds(text) for bucket in kind}:
                counts[bucket] += 1
        return cls(tuple(counts), num_documents, **arguments)

    @property
    def num_embeddings(self) -> int:
        """See :class:`TextEncoder`."""
        return len(self.document_counts)

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "row ngram"], Float[Tensor, "row ngram"]]:
        """See :class:`TextEncoder`; the second tensor holds the weights, scaled to length 1."""
        counts = np.array(self.document_counts)
        rarity = np.log((1 + self.num_documents) / (1 + counts)) + 1
        buckets = torch.zeros(len(texts), self.max_ngrams, dtype=torch.int32)
        weights = torch.zeros(len(texts), self.max_ngrams)
        for row, text in enumerate(texts):
            index, weight = self._weigh(text, counts, rarity)
            buckets[row, : len(index)] = torch.from_numpy(index)
            weights[row, : len(index)] = torch.from_numpy(weight)
        return buckets, weights

    def _weigh(self, text: str, counts: np.ndarray, rarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of a text that were seen before, and their weights."""
        index, weight = [np.zeros(0, dtype=np.int32)], [np.zeros(0)]
        for kind in self._kinds(text):
            found, times = np.unique(np.array(kind, dtype=np.int32), return_counts=True)
            known = counts[found] > 0
            if known.any():
                index.append(found[known])
                weight.append((1 + np.log(times[known])) * rarity[found[known]])
                weight[-1] /= np.linalg.norm(weight[-1])
        buckets, weights = np.concatenate(index), np.concatenate(weight)
        heaviest = np.argsort(-weights, kind="stable")[: self.max_ngrams]
        return buckets[heaviest], (weights[heaviest] / (np.linalg.norm(weights[heaviest]) + 1e-9)).astype(np.float32)

    def _kinds(self, text: str) -> list[list[int]]:
        """Buckets of the n-grams of words, of those of characters, and of the pairs. Bucket 0 is padding."""
        words = split_words(text)
        phrases = [
            self._bucket(" ".join(words[start : start + length]))
            for length in range(1, self.word_ngrams + 1)
            for start in range(len(words) - length + 1)
        ]
        prefixes = sorted({word[: self.pair_prefix] for word in words if word[0].isalnum()}) if self.pair_prefix else []
        pairs = [self._bucket(f"{first}+{second}") for first, second in combinations(prefixes, 2)]
        return [phrases, [bucket for word in words for bucket in self._characters(word)], pairs]

    def _characters(self, word: str) -> list[int]:
        if word not in self._within:
            # The mark keeps "pay" within a word apart from the word "pay".
            ngrams = character_ngrams(word, self.shortest, self.longest)
            self._within[word] = [self._bucket(f"#{ngram}") for ngram in ngrams]
        return self._within[word]

    def _bucket(self, ngram: str) -> int:
        return 1 + _bucket(ngram, len(self.document_counts) - 1)

    def arguments(self) -> dict[str, Any]:
        """See :class:`TextEncoder`."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}
