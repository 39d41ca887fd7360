"""Temperature scaling: one number that makes a model as sure as it has a right to be."""

from __future__ import annotations

from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

_SMALLEST, _LARGEST = 0.05, 20.0
"""Temperatures beyond these say that a model has not been trained, not how sure it is."""


def fit_temperature(logits: Float[Tensor, "row class"], labels: Int[Tensor, " row"]) -> float:
    """The temperature by which logits must be divided for the right answers to be likeliest.

    Above 1 the model was too sure of itself, below 1 not sure enough. The loss is convex in the inverse of the
    temperature, in which it is minimized.

    Args:
        logits: Scores of held-out rows.
        labels: Their right answers.

    Raises:
        ValueError: If there is no row.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 1, 1])), 3)  # three of four are right: log 3 = 2 / T
        1.82

    Reference: Guo et al. (2017), section 4.2, https://arxiv.org/abs/1706.04599
    """
    if not len(labels):
        raise ValueError("A temperature is fitted on held-out rows, and there are none. Set some aside.")
    scores = logits.float()

    def nats(inverse: float) -> float:
        return float(F.cross_entropy(scores * inverse, labels))

    found = minimize_scalar(nats, bounds=(1 / _LARGEST, 1 / _SMALLEST), method="bounded", options={"xatol": 1e-4})
    # An end of the interval is not tried by the search itself; 1 keeps what is already right.
    return 1 / float(found.x) if found.fun < nats(1.0) else 1.0
