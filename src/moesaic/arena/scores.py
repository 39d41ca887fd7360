"""Scores with confidence intervals: documents are what is resampled, since tokens of one document go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["nats_per_token", "bits_per_byte"]

CONFIDENCE = 0.95
"""Share of the bootstrap resamples that an interval covers."""


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
class DocumentScores:
    """How well a model predicted each document of a domain.

    Attributes:
        nats: Negative log-likelihood of each document, in nats.
        tokens: Tokens scored in each document.
        bytes: Length of each document in bytes of UTF-8.
    """

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Mean negative log-likelihood of a byte of text, in bits: comparable between tokenizers."""
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    def to_json(self) -> dict[str, list[float]]:
        """The scores as JSON values."""
        return {"nats": self.nats.tolist(), "tokens": self.tokens.tolist(), "bytes": self.bytes.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DocumentScores:
        """Read what :meth:`to_json` wrote."""
        return cls(np.array(values["nats"]), np.array(values["tokens"]), np.array(values["bytes"]))


Scores = Mapping[str, DocumentScores]
"""The scores of one model on every domain, by the domain's name."""


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
        """A metric, averaged over domains that count the same."""
        return _interval(_value(scores, metric, domains), self._resampled(scores, metric, domains))

    def difference(self, first: Scores, second: Scores, metric: Metric, domains: Sequence[str]) -> Interval:
        """How much larger a metric is for the first model than for the second, on the same documents."""
        value = _value(first, metric, domains) - _value(second, metric, domains)
        return _interval(value, self._resampled(first, metric, domains) - self._resampled(second, metric, domains))

    def _resampled(self, scores: Scores, metric: Metric, domains: Sequence[str]) -> NDArray[np.float64]:
        means = np.zeros(self.num_resamples)
        for position, domain in enumerate(domains):
            documents = scores[domain]
            count = len(documents.nats)
            generator = np.random.default_rng([self.seed, position])
            # How often each document is drawn: (resample, document)
            draws = generator.multinomial(count, np.full(count, 1 / count), size=self.num_resamples)
            if metric == "bits_per_byte":
                means += draws @ documents.nats / (draws @ documents.bytes) / math.log(2)
            else:
                means += draws @ documents.nats / (draws @ documents.tokens)
        return means / len(domains)


def _value(scores: Scores, metric: Metric, domains: Sequence[str]) -> float:
    return sum(getattr(scores[domain], metric) for domain in domains) / len(domains)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
