"""Texts as numbers, for classifiers that are trained from scratch: words with their pieces, or hashed n-grams."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

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
    """Hashed n-grams of words and of characters, weighted by TF-IDF.

    Attributes:
        document_counts: In how many of the texts that it was made from each bucket occurs.
        num_documents: Number of these texts.
        word_ngrams: Words in the longest n-gram of words.
        shortest: Characters in the shortest n-gram within a word, marks of beginning and end included.
        longest: Characters in the longest n-gram.
        max_ngrams: Different n-grams that are read of a text; the rarest are kept.

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
    longest: int = 5
    max_ngrams: int = 256
    _within: dict[str, list[int]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "document_counts", tuple(self.document_counts))

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, num_buckets: int = 2**15, **arguments: Any) -> NgramEncoder:
        """Count in how many of these texts each bucket occurs."""
        empty = cls((0,) * num_buckets, 0, **arguments)
        counts = [0] * num_buckets
        num_documents = 0
        for num_documents, text in enumerate(texts, start=1):  # noqa: B007 - read after the loop
            for bucket in set(empty._buckets(text)):
                counts[bucket] += 1
        return cls(tuple(counts), num_documents, **arguments)

    @property
    def num_embeddings(self) -> int:
        """See :class:`TextEncoder`."""
        return len(self.document_counts)

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "row ngram"], Float[Tensor, "row ngram"]]:
        """See :class:`TextEncoder`; the second tensor holds the weights, scaled to length 1."""
        counts = torch.tensor(self.document_counts, dtype=torch.float32)
        rarity = ((1 + self.num_documents) / (1 + counts)).log() + 1
        buckets = torch.zeros(len(texts), self.max_ngrams, dtype=torch.int32)
        weights = torch.zeros(len(texts), self.max_ngrams)
        for row, text in enumerate(texts):
            found = Counter(bucket for bucket in self._buckets(text) if self.document_counts[bucket])
            if not found:
                continue
            index = torch.tensor(list(found))
            weight = (1 + torch.tensor(list(found.values())).log()) * rarity[index]
            kept = weight.topk(min(self.max_ngrams, len(weight))).indices
            buckets[row, : len(kept)] = index[kept].int()
            weights[row, : len(kept)] = weight[kept] / weight[kept].norm()
        return buckets, weights

    def _buckets(self, text: str) -> Iterator[int]:
        # Bucket 0 is padding.
        num_buckets = len(self.document_counts) - 1
        words = split_words(text)
        for length in range(1, self.word_ngrams + 1):
            for start in range(len(words) - length + 1):
                yield 1 + _bucket(" ".join(words[start : start + length]), num_buckets)
        for word in words:
            if word not in self._within:
                ngrams = character_ngrams(word, self.shortest, self.longest)
                # The mark keeps "pay" within a word apart from the word "pay".
                self._within[word] = [1 + _bucket("#" + ngram, num_buckets) for ngram in ngrams]
            yield from self._within[word]

    def arguments(self) -> dict[str, Any]:
        """See :class:`TextEncoder`."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}
