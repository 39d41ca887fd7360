"""The answer that is most like all the others: minimum Bayes risk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moesaic.combiners.text.base import (
    Panel,
    TextCombiner,
    ask_all,
    check_weights,
    member_weights,
    register_text,
    take_best,
)
from moesaic.combiners.text.character_f_score import character_f_score
from moesaic.types import TextAnswer

Utility = Callable[[str, str], float]
"""How good a hypothesis would be if the reference were right; higher is better."""


def expected_utilities(
    texts: Sequence[str], weights: Sequence[float] | None = None, *, utility: Utility = character_f_score
) -> list[float]:
    """How good each text is expected to be if each of them, itself included, is right with the given probability.

    The text with the highest expected utility has the least Bayes risk.

    Args:
        texts: The candidates, and at the same time what is thought possible.
        weights: Probability of each, up to a factor; all the same if not given.
        utility: Called as ``utility(hypothesis, reference)``.

    Returns:
        One figure a text, in the utility's own unit.

    Raises:
        ValueError: If there are no texts, not as many weights as texts, or weights that are negative or all 0.

    Example:
        >>> expected_utilities(["4", "5", "4"], utility=lambda hypothesis, reference: float(hypothesis == reference))
        [0.6666666666666666, 0.3333333333333333, 0.6666666666666666]

    Reference: Kumar and Byrne (2004), section 2, https://aclanthology.org/N04-1022
    """
    if not texts:
        raise ValueError("Minimum Bayes risk needs at least one candidate, got none.")
    check_weights(weights)
    given = [1.0] * len(texts) if weights is None else list(weights)
    if len(given) != len(texts):
        raise ValueError(f"There are {len(given)} weights for {len(texts)} texts; give one a text.")
    # Equal texts are compared once, as a utility may be slow and members that agree give many of them.
    distinct = dict.fromkeys(texts, 0.0)
    for text, weight in zip(texts, given, strict=True):
        distinct[text] += weight
    expected = {
        hypothesis: sum(weight * utility(hypothesis, reference) for reference, weight in distinct.items()) / sum(given)
        for hypothesis in distinct
    }
    return [expected[text] for text in texts]


@register_text("bayes_risk")
class BayesRisk(TextCombiner):
    """Minimum Bayes risk: take the candidate that is expected to be best when any candidate may be the right one.

    With sampled candidates (``num_candidates`` and a temperature) this estimates the risk under the mixture of the
    members. A candidate's score is its expected utility; a member's weight is the probability given to its candidates.

    Args:
        utility: Called as ``utility(hypothesis, reference)``, higher is better; any metric of the task will do.
        weights: Probability that each member is right, in the members' order, up to a factor; all the same if not
            given.

    Raises:
        ValueError: If weights are negative or all 0.

    Reference: Kumar and Byrne (2004), section 2, https://aclanthology.org/N04-1022; Eikema and Aziz (2022), section 2,
    https://arxiv.org/abs/2108.04718
    """

    def __init__(self, *, utility: Utility = character_f_score, weights: Sequence[float] | None = None) -> None:
        check_weights(weights)
        self.utility = utility
        self.weights = weights

    def combine(self, prompts: Sequence[str], panel: Panel) -> list[TextAnswer]:
        """See :meth:`TextCombiner.combine`."""
        weights = member_weights(self.weights, list(panel.num_parameters))
        answers = []
        for candidates in ask_all(prompts, panel):
            # All members give equally many candidates, so a member's weight is shared equally among its own.
            given = [weights[candidate.member] for candidate in candidates]
            scores = expected_utilities([candidate.text for candidate in candidates], given, utility=self.utility)
            answers.append(take_best(candidates, scores, weights, list(weights)))
        return answers

    def arguments(self) -> dict[str, Any]:
        """See :meth:`TextCombiner.arguments`."""
        return {"utility": getattr(self.utility, "__name__", self.utility), "weights": self.weights}
