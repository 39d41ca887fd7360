"""When a small member should pass a question on: the rule of every cascade, of texts and of class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

ClassConfidence = Literal["probability", "margin", "entropy"]


def cascade_choice(confidence: ArrayLike, threshold: float) -> Bool[np.ndarray, "*axes"]:
    """True where the small member is too unsure, so that the large one is asked.

    Args:
        confidence: How sure the small member is; higher is surer.
        threshold: It is asked alone where its confidence is at least this.

    Raises:
        ValueError: If a confidence or the threshold is NaN, which is neither sure nor unsure.

    Example:
        >>> cascade_choice([0.9, 0.4, 0.7], 0.7).tolist()
        [False, True, False]
    """
    confidences = np.asarray(confidence, dtype=np.float64)
    if np.isnan(confidences).any() or np.isnan(threshold):
        raise ValueError(
            f"A cascade cannot compare NaN: {int(np.isnan(confidences).sum())} of {confidences.size} confidences are, "
            f"and the threshold is {threshold:g}."
        )
    return np.asarray(confidences < threshold)


def class_confidence(probabilities: ArrayLike, measure: ClassConfidence = "probability") -> Float[np.ndarray, "*axes"]:
    """How sure a classifier is of each row; higher is surer.

    Args:
        probabilities: Of the classes, on the last axis.
        measure: ``probability`` of the likeliest class, its ``margin`` to the second, or the ``entropy`` in nats with
            its sign turned.

    Raises:
        ValueError: If there is no such measure, or less than two classes.

    Example:
        >>> class_confidence([[0.75, 0.25], [0.5, 0.5]], "margin").tolist()
        [0.5, 0.0]
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if given.ndim == 0 or given.shape[-1] < 2:
        raise ValueError(f"Probabilities need at least two classes on the last axis, got the shape {given.shape}.")
    if measure not in get_args(ClassConfidence):
        raise ValueError(f"measure must be one of {', '.join(get_args(ClassConfidence))}, got {measure!r}.")
    if measure == "entropy":
        return np.asarray((given * np.log(np.clip(given, np.finfo(np.float64).tiny, None))).sum(axis=-1))
    second, first = np.moveaxis(np.partition(given, -2, axis=-1)[..., -2:], -1, 0)
    return np.asarray(first - second if measure == "margin" else first)


def cascade_probabilities(
    small: ArrayLike, large: ArrayLike, *, threshold: float, measure: ClassConfidence = "probability"
) -> Float[np.ndarray, "*axes classes"]:
    """The large classifier's probabilities where the small one is unsure, and the small one's elsewhere.

    Args:
        small: The small classifier's probabilities, classes on the last axis.
        large: The large one's, of the same rows; those of rows that are not passed on are not looked at.
        threshold: See :func:`cascade_choice`.
        measure: See :func:`class_confidence`.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> cascade_probabilities([[0.9, 0.1], [0.6, 0.4]], [[0.0, 1.0], [0.2, 0.8]], threshold=0.7).tolist()
        [[0.9, 0.1], [0.2, 0.8]]

    Reference: Jitkrittum et al. (2023), section 3, https://arxiv.org/abs/2307.02764
    """
    ours, theirs = np.asarray(small, dtype=np.float64), np.asarray(large, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"The small member's probabilities have shape {ours.shape}, the large one's {theirs.shape}.")
    is_passed_on = cascade_choice(class_confidence(ours, measure), threshold)
    return np.where(is_passed_on[..., None], theirs, ours)


@dataclass(frozen=True)
class CalibratedThreshold:
    """A cascade's threshold, and what it does on the data on which it was found.

    Attributes:
        threshold: The large member is asked where confidence is below this.
        deferred: Share of the data for which it is.
        quality: Mean quality of the cascade.
        small_quality: Mean quality of the small member alone.
        large_quality: Mean quality of the large member alone.
    """

    threshold: float
    deferred: float
    quality: float
    small_quality: float
    large_quality: float


def calibrate_threshold(
    confidences: ArrayLike,
    small_quality: ArrayLike,
    large_quality: ArrayLike,
    *,
    tolerance: float | None = None,
    max_deferred: float | None = None,
) -> CalibratedThreshold:
    """Find the threshold of a cascade on data that neither member was trained on.

    Either quality is required, and the cheapest threshold is taken that loses at most ``tolerance`` to the large
    member; or cost is, and the best threshold is taken that asks the large member for at most a share
    ``max_deferred``. Every threshold that makes a difference is tried. Of equally good ones the cheapest is taken.

    Args:
        confidences: How sure the small member is of each example.
        small_quality: How good its answers are, for instance 1 for right and 0 for wrong.
        large_quality: How good the large member's answers to the same examples are.
        tolerance: Mean quality that may be lost to the large member.
        max_deferred: Share of the examples for which the large member may be asked, from 0 to 1.

    Returns:
        The threshold and its consequences. It is minus infinity if the large member is never worth asking, and
        infinity if it always is.

    Raises:
        ValueError: If the data do not fit together, hold NaN or are empty, or not exactly one limit is given.

    Example:
        >>> calibrated = calibrate_threshold([0.9, 0.2, 0.6], [1, 0, 1], [1, 1, 1], tolerance=0.0)
        >>> calibrated.threshold, round(calibrated.deferred, 2), calibrated.quality
        (0.6, 0.33, 1.0)

    Reference: Chen et al. (2023), section 3, https://arxiv.org/abs/2305.05176
    """
    sureness, small, large = (
        np.asarray(given, dtype=np.float64) for given in (confidences, small_quality, large_quality)
    )
    _check_calibration(sureness, small, large, tolerance, max_deferred)
    order = np.argsort(sureness, kind="stable")
    sureness, small, large = sureness[order], small[order], large[order]
    # Quality when the k least sure examples are passed on, for k from 0 to all of them.
    qualities = (_sums(large) + small.sum() - _sums(small)) / len(small)
    # Examples of equal confidence are passed on together or not at all.
    can_cut = np.concatenate(([True], sureness[1:] > sureness[:-1], [True]))
    allowed = can_cut & (
        qualities >= large.mean() - tolerance - 1e-12
        if tolerance is not None
        else np.arange(len(qualities)) <= (max_deferred or 0.0) * len(small) + 1e-9
    )
    count = int(np.argmax(allowed)) if tolerance is not None else int(np.argmax(np.where(allowed, qualities, -np.inf)))
    # The least sure example that is kept is just sure enough.
    threshold = -np.inf if count == 0 else np.append(sureness, np.inf)[count]
    return CalibratedThreshold(
        float(threshold), count / len(small), float(qualities[count]), float(small.mean()), float(large.mean())
    )


def _sums(values: Float[np.ndarray, " example"]) -> Float[np.ndarray, " count"]:
    """Sum of the first k values, for k from 0."""
    return np.concatenate(([0.0], np.cumsum(values)))


def _check_calibration(
    confidences: np.ndarray,
    small: np.ndarray,
    large: np.ndarray,
    tolerance: float | None,
    max_deferred: float | None,
) -> None:
    shapes = [values.shape for values in (confidences, small, large)]
    if confidences.ndim != 1 or len(set(shapes)) > 1 or not confidences.size:
        given = ", ".join(map(str, shapes))
        raise ValueError(f"Confidences and both qualities need one figure an example each, got the shapes {given}.")
    if any(np.isnan(values).any() for values in (confidences, small, large)):
        raise ValueError("Confidences and qualities must be numbers, and some are NaN; leave those examples out.")
    if (tolerance is None) == (max_deferred is None):
        raise ValueError("Give either tolerance, the quality that may be lost, or max_deferred, the share passed on.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance:g}.")
    if max_deferred is not None and not 0 <= max_deferred <= 1:
        raise ValueError(f"max_deferred must be from 0 to 1, got {max_deferred:g}.")
