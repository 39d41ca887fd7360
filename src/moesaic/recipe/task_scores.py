"""All figures of several systems on the same pairs: by what they wrote, and by how likely they find the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from moesaic.data import Pair
from moesaic.tasks import Answers, Measured, TaskSet, compare_means

LOG_LIKELIHOOD = "log-likelihood"
"""The metric's name, in the words of tasks that have it."""

Likelihoods = Mapping[str, Sequence[tuple[float, int]]]
"""For each system, the log-probability of each pair's reference in nats, and its number of tokens."""


def measure(
    tasks: TaskSet,
    task: str,
    answers: Answers,
    likelihoods: Likelihoods,
    pairs: Sequence[Pair],
    *,
    baseline: str,
    num_resamples: int,
) -> dict[str, dict[str, Measured]]:
    """Score what systems wrote by the task's metrics, and systems that are probabilistic by the references too.

    Args:
        tasks: The tasks.
        task: The one that was done, by its name.
        answers: One answer a pair, by the system's name.
        likelihoods: Those of the references, for systems that read and write in the same tokens; may be empty.
        pairs: The sources and references.
        baseline: The system with which the others are compared.
        num_resamples: Bootstrap resamples, the same for every system.

    Returns:
        For each system, each metric. The log-likelihood is the mean over all tokens of the references; its resamples
        keep the number of tokens.
    """
    measured = tasks.compare(task, answers, pairs, baseline=baseline, num_resamples=num_resamples)
    if baseline in likelihoods:
        scores = {name: _per_token(likelihoods[name]) for name in answers if name in likelihoods}
        for name, found in compare_means(scores, baseline=baseline, num_resamples=num_resamples).items():
            measured[name][LOG_LIKELIHOOD] = found
    return measured


def _per_token(likelihoods: Sequence[tuple[float, int]]) -> np.ndarray:
    """One score a pair, whose mean is the log-probability of a token."""
    log_probabilities, num_tokens = np.array(likelihoods, dtype=np.float64).T
    return log_probabilities * len(likelihoods) / num_tokens.sum()
