"""Whether a model is as sure as it has a right to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def expected_calibration_error(
    confidences: Float[np.ndarray, " row"], correct: Bool[np.ndarray, " row"], num_bins: int = 15
) -> float:
    """How far confidence is from accuracy, in bins of rows of like confidence.

    Bins hold about as many rows each; rows of one confidence share a bin, so that their order does not matter.

    Args:
        confidences: Probability that the model gave its answer.
        correct: Whether the answer was right.
        num_bins: Number of bins.

    Returns:
        The mean over rows of their bin's distance between mean confidence and accuracy.

    Raises:
        ValueError: If there is no row, or no bin.

    Example:
        >>> # two bins: sure of 0.9 and always right, sure of 0.5 and never: (0.1 + 0.5) / 2
        >>> confidences, correct = np.array([0.5, 0.9, 0.5, 0.9]), np.array([False, True, False, True])
        >>> round(expected_calibration_error(confidences, correct, num_bins=2), 3)
        0.3

    Reference: Guo et al. (2017), section 2, https://arxiv.org/abs/1706.04599; bins of equal mass: Nguyen and O'Connor
        (2015), section 3, https://arxiv.org/abs/1508.05154
    """
    if not len(confidences):
        raise ValueError("Calibration is measured on rows, and there are none. Give at least one.")
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    edges = np.quantile(confidences, np.linspace(0, 1, num_bins + 1)[1:-1])
    bins = np.searchsorted(edges, confidences, side="right")
    gaps = np.bincount(bins, weights=confidences.astype(np.float64) - correct, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


def brier_score(logits: Float[Tensor, "*axes class"], labels: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Squared distance of each row's predicted distribution from the right class: 0 at best, 2 at worst.

    Args:
        logits: Scores of every class.
        labels: The right classes.

    Example:
        >>> brier_score(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))  # 0.5² + 0.5²
        tensor([0.5000])

    Reference: Brier (1950), equation 2, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return score_rows(logits.flatten(0, -2), labels.flatten()).brier.view(labels.shape)


@dataclass(frozen=True)
class RowScores:
    """What is measured of each answer.

    Attributes:
        nats: Negative log-likelihood of the right class, in nats.
        calibrated_nats: The same after temperature scaling.
        brier: The Brier score.
        confidences: Probability of the likeliest class.
        predictions: The likeliest class.
    """

    nats: Float[Tensor, " row"]
    calibrated_nats: Float[Tensor, " row"]
    brier: Float[Tensor, " row"]
    confidences: Float[Tensor, " row"]
    predictions: Int[Tensor, " row"]


_CHUNK_LOGITS = 2**17
"""Logits scored at once on a CPU: they stay in its cache, which makes scoring twice as fast."""


def score_rows(logits: Float[Tensor, "row class"], labels: Int[Tensor, " row"], temperature: float = 1.0) -> RowScores:
    """Score answers one by one.

    Args:
        logits: Scores of every class.
        labels: The right classes.
        temperature: What the logits are divided by for the calibrated loss.

    Reference: Ashukha et al. (2020), section 4, https://arxiv.org/abs/2002.06470, why ensembles are compared after
        temperature scaling.
    """
    num_rows = max(1, _CHUNK_LOGITS // logits.shape[-1]) if logits.device.type == "cpu" else max(1, len(logits))
    chunks = zip(logits.split(num_rows), labels.split(num_rows), strict=True)
    return RowScores(*map(torch.cat, zip(*(_score(*chunk, temperature) for chunk in chunks), strict=True)))


def _score(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    log_probabilities = logits.float().log_softmax(dim=-1)
    nats = -log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    largest, predictions = log_probabilities.max(dim=-1)
    calibrated = nats
    if temperature != 1:
        calibrated = F.cross_entropy(log_probabilities / temperature, labels, reduction="none")
    # Σ_k (p_k - y_k)² = Σ_k p_k² - 2 p_label + 1
    squares = torch.linalg.vector_norm(log_probabilities.exp_(), dim=-1).square()
    brier = (squares - 2 * (-nats).exp() + 1).clamp_min(0)
    return nats, calibrated, brier, largest.exp(), predictions
