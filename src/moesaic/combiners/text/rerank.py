"""Every member scores every answer; the answer that they like best together is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from moesaic.combiners.text.base import (
    Panel,
    TextCombiner,
    ask_all,
    check_weights,
    member_weights,
    register_text,
    take_best,
)
from moesaic.types import Candidate, TextAnswer

Unit = Literal["byte", "character", "text"]


def score_per_unit(log_probability: float, text: str, *, is_finished: bool, per: Unit = "byte") -> float:
    """A log-probability that can be compared between texts of different lengths, whatever the tokenizer.

    Tokens are no such unit: members cut one text into different numbers of them.

    Args:
        log_probability: Of the whole text.
        text: The text.
        is_finished: Whether the log-probability includes that the text ends here, which counts as one more unit.
        per: ``byte`` of UTF-8, ``character``, or the whole ``text``, which favors short ones.

    Raises:
        ValueError: If there is no such unit.

    Example:
        >>> score_per_unit(-6.0, "für", is_finished=True)  # four bytes, and the end
        -1.2
    """
    if per not in get_args(Unit):
        raise ValueError(f"per must be one of {', '.join(get_args(Unit))}, got {per!r}.")
    if per == "text":
        return log_probability
    length = len(text.encode()) if per == "byte" else len(text)
    return log_probability / max(length + is_finished, 1)


def summed_scores(member_scores: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """The members' scores of each candidate, summed with the members' weights.

    Args:
        member_scores: One row a member, one figure a candidate.
        weights: One a member.

    Example:
        >>> summed_scores([[-1.0, -2.0], [-4.0, -1.0]], [0.5, 0.5])
        [-2.5, -1.5]
    """
    return [
        sum(weight * score for weight, score in zip(weights, of_candidate, strict=True))
        for of_candidate in zip(*member_scores, strict=True)
    ]


@register_text("rerank")
class Rerank(TextCombiner):
    """Every member scores every candidate under its own tokenizer; the highest weighted sum wins.

    The score of a member is its log-probability of the text, and of its end where its writer ended it, per byte.
    Members may have any vocabularies. A candidate's score is the weighted mean over members; a member's weight is the
    one in that mean.

    Args:
        per: Unit of length by which log-probabilities are divided; see :func:`score_per_unit`.
        weights: What each member's score counts, in the members' order; all the same if not given.

    Raises:
        ValueError: If there is no such unit, or weights are negative or all 0.

    Reference: Salazar et al. (2020), on rescoring what another model wrote, https://arxiv.org/abs/1910.14659
    """

    def __init__(self, *, per: Unit = "byte", weights: Sequence[float] | None = None) -> None:
        score_per_unit(0.0, "", is_finished=True, per=per)
        check_weights(weights)
        self.per: Unit = per
        self.weights = weights

    def combine(self, prompts: Sequence[str], panel: Panel) -> list[TextAnswer]:
        """See :meth:`TextCombiner.combine`."""
        weights = member_weights(self.weights, list(panel.num_parameters))
        candidates = ask_all(prompts, panel)
        judged = [panel.score(member, prompts, candidates) for member in weights]
        answers = []
        for of_prompt, *log_probabilities in zip(candidates, *judged, strict=True):
            member_scores = [self._per_unit(of_prompt, of_member) for of_member in log_probabilities]
            scores = summed_scores(member_scores, list(weights.values()))
            answers.append(take_best(of_prompt, scores, weights, list(weights)))
        return answers

    def _per_unit(self, candidates: tuple[Candidate, ...], log_probabilities: Sequence[float]) -> list[float]:
        return [
            score_per_unit(log_probability, candidate.text, is_finished=candidate.is_finished, per=self.per)
            for candidate, log_probability in zip(candidates, log_probabilities, strict=True)
        ]

    def arguments(self) -> dict[str, Any]:
        """See :meth:`TextCombiner.arguments`."""
        return {"per": self.per, "weights": self.weights}
