"""Confidence intervals and paired tests: documents or examples are drawn again and again, the same for every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moesaic.arena.scores import METRICS, DomainScores, Metric

CONFIDENCE = 0.95
"""Share of the bootstrap resamples that an interval covers."""

Scores = Mapping[str, DomainScores]
"""The scores of one model on every domain, by the domain's name."""


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies in 95% of the bootstrap resamples.

    Attributes:
        value: The figure on all documents.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Bootstrap:
    """Draws the same documents again and again, the same ones for every model, so that models can be compared in pairs.

    Attributes:
        num_resamples: How many times.
        seed: Makes the draws.
    """

    num_resamples: int = 1000
    seed: int = 0

    def interval(self, scores: Scores, metric: Metric, domains: Sequence[str]) -> Interval:
        """A metric, averaged over domains that count the same.

        Raises:
            ValueError: If the metric was not measured.
        """
        value = mean_value(scores, metric, domains)
        return _interval(value, self._resampled(scores, metric, domains))

    def difference(self, first: Scores, second: Scores, metric: Metric, domains: Sequence[str]) -> Interval:
        """How much larger a metric is for the first model than for the second, on the same documents.

        Raises:
            ValueError: If the metric was not measured of both.
        """
        value = mean_value(first, metric, domains) - mean_value(second, metric, domains)
        return _interval(value, self._differences(first, second, metric, domains))

    def p_value(self, first: Scores, second: Scores, metric: Metric, domains: Sequence[str]) -> float:
        """How often chance alone makes two equal models differ as much as these: a two-sided, paired test.

        The resampled differences are moved so that their center is no difference; the p-value is the share of them
        that is at least as far from it as what was measured. The measured difference counts as one of them, so that no
        p-value is 0.

        Raises:
            ValueError: If the metric was not measured of both.

        Reference: Berg-Kirkpatrick et al. (2012), section 2, https://aclanthology.org/D12-1091; Davison and Hinkley
            (1997), section 4.4, for counting the measured difference.
        """
        measured = mean_value(first, metric, domains) - mean_value(second, metric, domains)
        by_chance = self._differences(first, second, metric, domains) - measured
        # Sums in another order differ in their last digits, which is no evidence.
        is_as_far = np.abs(by_chance) >= abs(measured) - 1e-12
        return float((1 + is_as_far.sum()) / (1 + self.num_resamples))

    def _differences(
        self, first: Scores, second: Scores, metric: Metric, domains: Sequence[str]
    ) -> NDArray[np.float64]:
        return self._resampled(first, metric, domains) - self._resampled(second, metric, domains)

    def _resampled(self, scores: Scores, metric: Metric, domains: Sequence[str]) -> NDArray[np.float64]:
        if METRICS[metric].is_pooled:
            raise ValueError(f"{metric} is about all rows of a domain at once, so documents cannot be drawn for it.")
        means = np.zeros(self.num_resamples)
        for position, domain in enumerate(domains):
            draws = _draws(self.seed, position, len(scores[domain]), self.num_resamples)
            means += scores[domain].resampled(metric, draws.astype(np.float64))
        return means / len(domains)


def mean_value(scores: Scores, metric: Metric, domains: Sequence[str]) -> float:
    """A metric on all documents, averaged over domains that count the same.

    Raises:
        ValueError: If the metric was not measured.
    """
    return sum(scores[domain].value(metric) for domain in domains) / len(domains)


@lru_cache(maxsize=32)
def _draws(seed: int, position: int, count: int, num_resamples: int) -> NDArray[np.uint16]:
    """How often each document is drawn, ``(resample, document)``; kept, since every cell of a table asks for them."""
    generator = np.random.default_rng([seed, position])
    return generator.multinomial(count, np.full(count, 1 / count), size=num_resamples).astype(np.uint16)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
