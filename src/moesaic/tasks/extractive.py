"""Extractive summaries: which sentences of a document stand for it, at best and by simple rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moesaic.tasks.documents import Document
from moesaic.tasks.sentences import words_of


@dataclass(frozen=True)
class SummaryLength:
    """How long an extractive summary is.

    Attributes:
        max_sentences: Sentences at most.
        max_words: No sentence is added to a summary that has as many words; ``None`` leaves words uncounted.
    """

    max_sentences: int = 3
    max_words: int | None = None

    def __post_init__(self) -> None:
        if self.max_sentences < 1 or (self.max_words is not None and self.max_words < 1):
            raise ValueError(
                f"A summary has at least one sentence and one word, got max_sentences={self.max_sentences} and "
                f"max_words={self.max_words}."
            )

    def __str__(self) -> str:
        sentences = f"{self.max_sentences} sentence{'s' if self.max_sentences > 1 else ''}"
        return sentences if self.max_words is None else f"{sentences} or {self.max_words} words"


def lead(document: Document, num_sentences: int = 3) -> tuple[int, ...]:
    """The first sentences: the baseline that every summarizer is held against."""
    return tuple(range(min(num_sentences, len(document.sentences))))


def pick_sentences(
    document: Document, scores: Sequence[float], length: SummaryLength, *, block_trigrams: bool = False
) -> tuple[int, ...]:
    """Take the sentences with the highest scores until the summary is long enough.

    Args:
        document: What is summarized.
        scores: One a sentence; higher is better.
        length: When to stop.
        block_trigrams: Leave out a sentence that shares three words in a row with one taken before.

    Returns:
        Positions of the sentences, in the document's order.

    Raises:
        ValueError: If there is not one score a sentence.

    Example:
        >>> weather = Document("It rains. It rains a lot today. Bring an umbrella. It rains a lot.")
        >>> pick_sentences(weather, [0.1, 0.9, 0.3, 0.8], SummaryLength(2), block_trigrams=True)
        (1, 2)

    Reference: Liu and Lapata (2019), section 4.2, https://arxiv.org/abs/1908.08345
    """
    sentences = document.sentences
    if len(scores) != len(sentences):
        raise ValueError(f"Every sentence needs a score: got {len(sentences)} sentences and {len(scores)} scores.")
    chosen: list[int] = []
    seen: set[tuple[str, ...]] = set()
    num_words = 0
    for index in sorted(range(len(sentences)), key=lambda index: -scores[index]):
        words = words_of(sentences[index])
        trigrams = set(_ngrams(words, 3))
        if block_trigrams and trigrams & seen:
            continue
        chosen.append(index)
        seen |= trigrams
        num_words += len(words)
        if len(chosen) == length.max_sentences or (length.max_words is not None and num_words >= length.max_words):
            break
    return tuple(sorted(chosen))


def greedy_oracle(document: Document, *, max_sentences: int | None = None) -> tuple[int, ...]:
    """The sentences that a summarizer should have taken: one is added after the other while that raises ROUGE.

    What rises is the mean of the F1 of ROUGE-1 and ROUGE-2 (:func:`overlap`). Where there are several references, each
    has its own sentences, and the best of these is returned.

    Args:
        document: Has references.
        max_sentences: Sentences at most.

    Returns:
        Positions of the sentences, in the document's order; empty if none shares a word with a reference.

    Raises:
        ValueError: If the document has no reference.

    Example:
        >>> greedy_oracle(Document("It is noon. Rain fell on Rome. Nobody minded.", references=("Rain in Rome.",)))
        (1,)

    Reference: Nallapati et al. (2017), section 3, https://arxiv.org/abs/1611.04230
    """
    if not document.references:
        raise ValueError("The best sentences are those nearest to what people wrote, and there is no reference.")
    grams = [_Grams.of([sentence]) for sentence in document.sentences]
    limit = len(grams) if max_sentences is None else max_sentences
    found = [_grow(grams, _Grams.of([reference]), limit) for reference in document.references]
    return max(found, key=lambda pair: pair[0])[1]


def _grow(sentences: Sequence[_Grams], reference: _Grams, limit: int) -> tuple[float, tuple[int, ...]]:
    """The best summary for one reference: its score, and the positions of its sentences."""
    # What the reference does not have counts by its number alone, which keeps sums small.
    known = {index: grams.within(reference) for index, grams in enumerate(sentences)}
    rest = {index: grams for index, grams in known.items() if grams.counts}
    best, summary = 0.0, _Grams(Counter(), 0, 0)
    chosen: list[int] = []
    while rest and len(chosen) < limit:
        # Of sentences that are as good, the first.
        score, negative = max((reference.f1(summary + grams), -index) for index, grams in rest.items())
        if score <= best:
            break
        best, summary = score, summary + rest.pop(-negative)
        chosen.append(-negative)
    return best, tuple(sorted(chosen))


def overlap(sentences: Iterable[str], references: Sequence[str]) -> float:
    """The mean of the F1 of ROUGE-1 and ROUGE-2 without stemming, the highest over references, from 0 to 1.

    Far quicker than :func:`moesaic.tasks.rouge`, hence what oracles and lengths are found by. Pairs of words do not
    span sentences.

    Example:
        >>> overlap(["the cat sat"], ["the cat"])  # 2 words of 3 and of 2; 1 pair of 2 and of 1
        0.7333333333333334
    """
    summary = _Grams.of(sentences)
    return max(_Grams.of([reference]).f1(summary) for reference in references)


@dataclass(frozen=True)
class _Grams:
    """How often words, and pairs of them, occur in a text.

    Attributes:
        counts: Of each word and each pair.
        num_words: Number of words.
        num_pairs: Number of pairs.
    """

    counts: Counter[tuple[str, ...]]
    num_words: int
    num_pairs: int

    @classmethod
    def of(cls, sentences: Iterable[str]) -> _Grams:
        split = [words_of(sentence) for sentence in sentences]
        words, pairs = ([gram for part in split for gram in _ngrams(part, size)] for size in (1, 2))
        return cls(Counter(words + pairs), len(words), len(pairs))

    def within(self, other: _Grams) -> _Grams:
        """The counts of what another text has too."""
        shared = Counter({gram: count for gram, count in self.counts.items() if gram in other.counts})
        return _Grams(shared, self.num_words, self.num_pairs)

    def __add__(self, other: _Grams) -> _Grams:
        return _Grams(self.counts + other.counts, self.num_words + other.num_words, self.num_pairs + other.num_pairs)

    def f1(self, summary: _Grams) -> float:
        """The mean of the F1 of words and of pairs."""
        shared = [0, 0]
        for gram, count in summary.counts.items():
            shared[len(gram) - 1] += min(count, self.counts.get(gram, 0))
        words = _f1(shared[0], self.num_words + summary.num_words)
        return (words + _f1(shared[1], self.num_pairs + summary.num_pairs)) / 2


def _f1(shared: int, total: int) -> float:
    return 2 * shared / total if total else 0.0


def _ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
