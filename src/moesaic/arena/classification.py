"""Scores of classifiers, example by example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from moesaic.arena.calibration import expected_calibration_error, score_rows
from moesaic.arena.scores import DomainScores, Metric


@dataclass(frozen=True)
class ClassificationScores(DomainScores):
    """How a classifier answered each example of a domain.

    The macro averages count every class alike that occurs among the labels.

    Attributes:
        labels: The right class of each example.
        predictions: The class that the model found likeliest.
        example_nats: Negative log-likelihood of the right class, in nats.
        example_calibrated_nats: The same with the logits divided by a temperature that was fitted on other examples.
        example_brier: Squared distance between the predicted distribution and the right class.
        confidences: Probability of the likeliest class.
    """

    kind = "examples"
    task = "Accuracy"
    superlative = "Highest accuracy"
    rows_read = "examples"
    metrics = (
        "accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "nats",
        "calibrated_nats",
        "brier",
        "expected_calibration_error",
    )

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    example_nats: NDArray[np.float64]
    example_calibrated_nats: NDArray[np.float64]
    example_brier: NDArray[np.float64]
    confidences: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each example was answered right."""
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        """Share of the examples answered right."""
        return float(self.correct.mean())

    @property
    def macro_precision(self) -> float:
        """Of the examples given a class, the share that has it; mean over classes."""
        return self._macro()[0]

    @property
    def macro_recall(self) -> float:
        """Of the examples of a class, the share that was given it; mean over classes."""
        return self._macro()[1]

    @property
    def macro_f1(self) -> float:
        """Harmonic mean of precision and recall; mean over classes."""
        return self._macro()[2]

    def _macro(self) -> tuple[float, float, float]:
        from sklearn.metrics import precision_recall_fscore_support  # takes a second, which language models save

        precision, recall, f1, _ = precision_recall_fscore_support(
            self.labels, self.predictions, labels=np.unique(self.labels), average="macro", zero_division=0
        )
        return float(precision), float(recall), float(f1)

    @property
    def nats(self) -> float:
        """Mean negative log-likelihood of the right class."""
        return float(self.example_nats.mean())

    @property
    def calibrated_nats(self) -> float:
        """Mean negative log-likelihood after temperature scaling."""
        return float(self.example_calibrated_nats.mean())

    @property
    def brier(self) -> float:
        """Mean squared distance between the predicted distribution and the right class."""
        return float(self.example_brier.mean())

    @property
    def expected_calibration_error(self) -> float:
        """How far the model's confidence is from its accuracy."""
        return expected_calibration_error(self.confidences, self.correct)

    def has(self, metric: Metric) -> bool:
        """See :meth:`DomainScores.has`."""
        return metric in self.metrics

    def _on_draws(self, metric: Metric, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        means: dict[Metric, NDArray[Any]] = {
            "accuracy": self.correct,
            "nats": self.example_nats,
            "calibrated_nats": self.example_calibrated_nats,
            "brier": self.example_brier,
        }
        return draws @ means[metric] / len(self) if metric in means else self._macro_on_draws(metric, draws)

    def _macro_on_draws(self, metric: Metric, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Precision, recall and F1 from how often each class is right, predicted and meant, ``(resample, class)``."""
        classes = np.unique(self.labels)
        meant = _count_classes(self.labels, classes, draws)
        predicted = _count_classes(self.predictions, classes, draws)
        right = _count_classes(np.where(self.correct, self.labels, -1), classes, draws)
        numerator, denominator = {
            "macro_precision": (right, predicted),
            "macro_recall": (right, meant),
            "macro_f1": (2 * right, meant + predicted),
        }[metric]
        per_class = np.divide(numerator, denominator, out=np.zeros_like(right), where=denominator > 0)
        # A class that no drawn example has does not count.
        return (per_class * (meant > 0)).sum(1) / (meant > 0).sum(1)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ClassificationScores:
        """Read what :meth:`to_json` wrote."""
        return cls(**{name: np.array(value) for name, value in values.items() if name != "kind"})


def _count_classes(
    answers: NDArray[np.int64], classes: NDArray[np.int64], draws: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How often each resample holds each class, ``(resample, class)``; other answers are left out."""
    index = np.searchsorted(classes, answers)
    examples = np.flatnonzero(classes[np.minimum(index, len(classes) - 1)] == answers)
    shape = (len(classes), len(answers))
    is_class = csr_array((np.ones(len(examples)), (index[examples], examples)), shape=shape)
    return (is_class @ draws.T).T


def score_classifier(
    logits: Float[Tensor, "example class"], labels: Int[Tensor, " example"], *, temperature: float = 1.0
) -> ClassificationScores:
    """Score a classifier's answers.

    Args:
        logits: Its scores of every class.
        labels: The right classes.
        temperature: What the logits are divided by for the calibrated loss; fitted on examples other than these (see
            :func:`moesaic.tasks.fit_temperature`).

    Raises:
        ValueError: If there is no example, a label is no class, the temperature is not above 0, or the logits are not
            all numbers.

    Example:
        >>> scores = score_classifier(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> scores.accuracy, scores.macro_recall
        (0.5, 0.5)
    """
    num_classes = logits.shape[-1]
    if not len(labels):
        raise ValueError("There is no example to score; give at least one.")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    # A class may be impossible, which is a logit of minus infinity; anything else must be a number.
    is_bad = (logits.isnan() | (logits == torch.inf)).any(1) | (logits == -torch.inf).all(1)
    if is_bad.any():
        raise ValueError(
            f"The logits of {int(is_bad.sum())} of {len(labels)} examples are not numbers; the model's weights or one "
            "of its members' are damaged."
        )
    rows = score_rows(logits, labels, temperature)
    return ClassificationScores(
        labels=labels.cpu().numpy().astype(np.int64),
        predictions=rows.predictions.cpu().numpy().astype(np.int64),
        example_nats=rows.nats.double().cpu().numpy(),
        example_calibrated_nats=rows.calibrated_nats.double().cpu().numpy(),
        example_brier=rows.brier.double().cpu().numpy(),
        confidences=rows.confidences.double().cpu().numpy(),
    )
