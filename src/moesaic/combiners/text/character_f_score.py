"""How alike two texts are: the F-score of their character n-grams (chrF)."""

from __future__ import annotations

from collections import Counter


def character_f_score(hypothesis: str, reference: str, *, max_order: int = 6, beta: float = 2.0) -> float:
    """F-score of character n-grams, from 0 for nothing in common to 1 for texts that differ in white space at most.

    Precision and recall are averaged over the orders from 1 to ``max_order`` for which both texts are long enough.

    Args:
        hypothesis: The text that is judged.
        reference: The text that it is compared with.
        max_order: Length of the longest n-grams.
        beta: How many times as much recall counts as precision.

    Raises:
        ValueError: If ``max_order`` is less than 1 or ``beta`` is not above 0.

    Example:
        >>> round(character_f_score("ab", "abcd", max_order=2), 3)  # precision 1, recall (1/2 + 1/3) / 2
        0.472

    Reference: Popović (2015), section 2, https://aclanthology.org/W15-3049
    """
    if max_order < 1:
        raise ValueError(f"max_order must be at least 1, got {max_order}.")
    if beta <= 0:
        raise ValueError(f"beta must be above 0, got {beta:g}.")
    written, expected = "".join(hypothesis.split()), "".join(reference.split())
    if not written or not expected:
        return float(written == expected)
    num_orders = min(max_order, len(written), len(expected))
    precision = recall = 0.0
    for order in range(1, num_orders + 1):
        ours, theirs = _count(written, order), _count(expected, order)
        common = (ours & theirs).total()
        precision += common / ours.total() / num_orders
        recall += common / theirs.total() / num_orders
    if precision == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _count(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))
