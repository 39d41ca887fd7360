"""ROUGE: how much of a summary stands in those that people wrote, and the reverse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rouge_score.rouge_scorer import RougeScorer

from moesaic.tasks.sentences import split_sentences


@dataclass(frozen=True)
class Rouge:
    """F1 of a summary, or their mean over several, in percent.

    Attributes:
        rouge1: Over words.
        rouge2: Over pairs of words that follow each other.
        rouge_lsum: Over the longest common subsequences of sentences.
    """

    rouge1: float
    rouge2: float
    rouge_lsum: float

    @property
    def mean(self) -> float:
        """The mean of the three, in percent."""
        return (self.rouge1 + self.rouge2 + self.rouge_lsum) / 3

    def __str__(self) -> str:
        return f"{self.rouge1:.1f} / {self.rouge2:.1f} / {self.rouge_lsum:.1f}"


def rouge(summary: Sequence[str] | str, references: Sequence[str]) -> Rouge:
    """ROUGE-1, ROUGE-2 and ROUGE-Lsum of a summary, as Google's rouge-score counts them with its stemmer.

    Where there are several references, each of the three is its highest over them, as Cachola et al. have it for
    SciTLDR; to count the mean or all of them together gives other numbers.

    Args:
        summary: The summary, or its sentences, which ROUGE-Lsum matches one by one; a text is split.
        references: What people wrote; each is split.

    Raises:
        ValueError: If there is no reference.
        ImportError: If rouge-score is not installed.

    Example:
        >>> print(rouge("The cat sat.", ["A dog ran.", "The cat is sitting on the mat."]))  # 2 words of 3, and of 7
        40.0 / 25.0 / 40.0

    References: Lin (2004), https://aclanthology.org/W04-1013; Cachola et al. (2020), section 4,
    https://arxiv.org/abs/2004.15011
    """
    if not references:
        raise ValueError("A summary is compared with what people wrote, and there is no reference. Give at least one.")
    sentences = split_sentences(summary) if isinstance(summary, str) else summary
    targets = ["\n".join(split_sentences(reference)) for reference in references]
    scores = _scorer().score_multi(targets, "\n".join(sentences))
    return Rouge(*(100 * float(scores[name].fmeasure) for name in _NAMES))


def mean_rouge(scores: Iterable[Rouge]) -> Rouge:
    """The mean over summaries, each counted the same.

    Raises:
        ValueError: If there is none.
    """
    rows = [(score.rouge1, score.rouge2, score.rouge_lsum) for score in scores]
    if not rows:
        raise ValueError("There is no summary to take the mean of.")
    return Rouge(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


_NAMES = ("rouge1", "rouge2", "rougeLsum")


@lru_cache(maxsize=1)
def _scorer() -> RougeScorer:
    return RougeScorer(list(_NAMES), use_stemmer=True)
