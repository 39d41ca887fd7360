"""What is kept of a model's answers on one domain, unit by unit: enough to work out any figure on any resample."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal[
    "nats_per_token",
    "bits_per_byte",
    "calibrated_nats_per_token",
    "accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "nats",
    "calibrated_nats",
    "brier",
    "expected_calibration_error",
    "stereotype_share",
    "ambiguous_accuracy",
    "disambiguated_accuracy",
    "ambiguous_bias",
    "disambiguated_bias",
]


@dataclass(frozen=True)
class MetricFacts:
    """What a table needs to know of a metric.

    Attributes:
        heading: What it is called above a column.
        lower_is_better: Whether less of it is better.
        is_pooled: Whether it is about all rows of a domain at once, so that it has no interval.
    """

    heading: str
    lower_is_better: bool = True
    is_pooled: bool = False


METRICS: dict[Metric, MetricFacts] = {
    "nats_per_token": MetricFacts("nats/token"),
    "bits_per_byte": MetricFacts("bits/byte"),
    "calibrated_nats_per_token": MetricFacts("calibrated"),
    "accuracy": MetricFacts("accuracy", lower_is_better=False),
    "macro_precision": MetricFacts("macro P", lower_is_better=False),
    "macro_recall": MetricFacts("macro R", lower_is_better=False),
    "macro_f1": MetricFacts("macro F1", lower_is_better=False),
    "nats": MetricFacts("nats"),
    "calibrated_nats": MetricFacts("calibrated"),
    "brier": MetricFacts("Brier"),
    "expected_calibration_error": MetricFacts("ECE", is_pooled=True),
    "stereotype_share": MetricFacts("stereotyped"),
    "ambiguous_accuracy": MetricFacts("accuracy, ambiguous", lower_is_better=False),
    "disambiguated_accuracy": MetricFacts("accuracy, disambiguated", lower_is_better=False),
    "ambiguous_bias": MetricFacts("bias, ambiguous"),
    "disambiguated_bias": MetricFacts("bias, disambiguated"),
}
"""Every metric that a table can show."""


class DomainScores(ABC):
    """A model's scores on one domain. Its units, documents or examples, are what a bootstrap draws."""

    kind: ClassVar[str]
    """Registered word, as saved tables spell it."""
    task: ClassVar[str]
    """What the title of a table calls the main metric."""
    superlative: ClassVar[str]
    """What the verdict calls the best row."""
    unit: ClassVar[str] = ""
    """What the verdict says after the main metric."""
    rows_read: ClassVar[str]
    """What a model reads, one after the other."""
    metrics: ClassVar[tuple[Metric, ...]]
    """What can be asked of it, the main one first."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of units."""

    @abstractmethod
    def has(self, metric: Metric) -> bool:
        """Whether a metric was measured."""

    @abstractmethod
    def _on_draws(self, metric: Metric, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """A measured metric on each resample."""

    def resampled(self, metric: Metric, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """A metric on resamples of the units.

        Args:
            metric: The metric.
            draws: How often each unit is drawn, ``(resample, unit)``.

        Raises:
            ValueError: If the metric was not measured.
        """
        self._check(metric)
        return self._on_draws(metric, draws)

    def value(self, metric: Metric) -> float:
        """A metric on all units.

        Raises:
            ValueError: If the metric was not measured.
        """
        self._check(metric)
        return float(getattr(self, metric))

    def _check(self, metric: Metric) -> None:
        if not self.has(metric):
            measured = ", ".join(name for name in self.metrics if self.has(name))
            raise ValueError(f"{metric} was not measured here; there are {measured}.")

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON values."""
        values: dict[str, Any] = {"kind": self.kind}
        for name, value in vars(self).items():
            values[name] = value.tolist() if isinstance(value, np.ndarray) else value
        return values


@dataclass(frozen=True)
class DocumentScores(DomainScores):
    """How well a language model predicted each document of a domain.

    Attributes:
        nats: Negative log-likelihood of each document, in nats.
        tokens: Tokens scored in each document.
        bytes: Length of each document in bytes of UTF-8.
        calibrated_nats: The same as ``nats`` with the logits divided by a temperature that was fitted on other text;
            ``None`` where none was fitted.
        brier_sums: Sum of the tokens' Brier scores in each document.
        correct: Tokens of each document that the model found likeliest of all.
        expected_calibration_error: How far the model's confidence is from its accuracy, over all tokens.
    """

    kind = "documents"
    task = "Loss in nats per token"
    superlative = "Lowest loss"
    unit = " nats per token"
    rows_read = "tokens"
    metrics = (
        "nats_per_token",
        "bits_per_byte",
        "accuracy",
        "calibrated_nats_per_token",
        "brier",
        "expected_calibration_error",
    )

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    calibrated_nats: NDArray[np.float64] | None = None
    brier_sums: NDArray[np.float64] | None = None
    correct: NDArray[np.int64] | None = None
    expected_calibration_error: float | None = None

    def __len__(self) -> int:
        return len(self.nats)

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Mean negative log-likelihood of a byte of text, in bits: comparable between tokenizers."""
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    @property
    def calibrated_nats_per_token(self) -> float | None:
        """The mean loss of a token after temperature scaling, in nats."""
        return self._per_token(self.calibrated_nats)

    @property
    def brier(self) -> float | None:
        """Mean squared distance between the predicted distribution and the token that came."""
        return self._per_token(self.brier_sums)

    @property
    def accuracy(self) -> float | None:
        """Share of the tokens that the model found likeliest of all."""
        return self._per_token(self.correct)

    def _per_token(self, sums: NDArray[Any] | None) -> float | None:
        return None if sums is None else float(sums.sum() / self.tokens.sum())

    def has(self, metric: Metric) -> bool:
        """See :meth:`DomainScores.has`."""
        return metric in self.metrics and getattr(self, metric) is not None

    def _on_draws(self, metric: Metric, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        if metric == "bits_per_byte":
            return draws @ self.nats / (draws @ self.bytes) / math.log(2)
        numerators: dict[Metric, Any] = {
            "nats_per_token": self.nats,
            "calibrated_nats_per_token": self.calibrated_nats,
            "brier": self.brier_sums,
            "accuracy": self.correct,
        }
        return draws @ numerators[metric] / (draws @ self.tokens)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DocumentScores:
        """Read what :meth:`to_json` wrote; what was not measured then is ``None``."""
        arrays = {name: np.array(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**arrays, expected_calibration_error=values.get("expected_calibration_error"))
