"""Metrics of sacrebleu over whole corpora, and the paired bootstrap that compares systems by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result

from moesaic.data import Pair
from moesaic.tasks.generative import Answers, Measured


def compare_corpora(
    metrics: Mapping[str, Metric], answers: Answers, pairs: Sequence[Pair], *, baseline: str, num_resamples: int
) -> dict[str, dict[str, Measured]]:
    """Score what several systems wrote, each metric over all pairs together, against the first reference of each.

    Args:
        metrics: Sacrebleu's metrics, by the names that they have here.
        answers: One answer a pair, by the system's name.
        pairs: The sources and references.
        baseline: The system with which the others are compared.
        num_resamples: Bootstrap resamples, the same for every system.

    Returns:
        For each system, each metric.

    Reference: Koehn (2004), section 3, https://aclanthology.org/W04-3250
    """
    systems: list[tuple[str, Sequence[str]]] = [(baseline, list(answers[baseline]))]
    systems += [(name, list(texts)) for name, texts in answers.items() if name != baseline]
    references = [[pair.target for pair in pairs]]
    measured: dict[str, dict[str, Measured]] = {name: {} for name in answers}
    for name, metric in metrics.items():
        # One test a metric, since the library calls both kinds of BLEU by one name.
        test = PairedTest(systems, {name: metric}, references, test_type="bs", n_samples=num_resamples)
        [results] = (found for title, found in test()[1].items() if title != "System")
        for (system, texts), result in zip(systems, results, strict=True):
            assert isinstance(result, Result)
            # Of the very same answers, the library's test says that they surely differ.
            p_value = 1.0 if texts == systems[0][1] else result.p_value
            measured[system][name] = _measured(result, None if system == baseline else p_value)
    return measured


def signature(metric: Metric) -> str:
    """How sacrebleu computes a metric, in its own words."""
    metric.corpus_score([""], [[""]])  # the library must have seen how many references there are
    return str(metric.get_signature())


def _measured(result: Any, p_value: float | None) -> Measured:
    # The interval's center is the mean over resamples, not the figure on all pairs.
    return Measured(result.score, float(result.mean - result.ci), float(result.mean + result.ci), p_value)
