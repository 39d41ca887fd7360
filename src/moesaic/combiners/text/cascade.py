"""Ask the smallest member first, and a larger one only when it is unsure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from moesaic.combiners.deferral import cascade_choice
from moesaic.combiners.text.base import Panel, TextCombiner, register_text, take_best
from moesaic.types import Candidate, TextAnswer

Confidence = Literal["log_probability", "margin", "entropy"]


def text_confidence(candidate: Candidate, measure: Confidence = "log_probability") -> float:
    """How sure a member was of what it wrote; higher is surer.

    Args:
        candidate: What it wrote.
        measure: ``log_probability`` of a token, ``margin`` between the likeliest two tokens, or ``entropy`` of the
            next-token distribution with its sign turned; each is the mean over the tokens.

    Raises:
        ValueError: If there is no such measure.
    """
    if measure not in get_args(Confidence):
        raise ValueError(f"confidence must be one of {', '.join(get_args(Confidence))}, got {measure!r}.")
    if measure == "margin":
        return candidate.margin
    if measure == "entropy":
        return -candidate.entropy
    return candidate.log_probability / max(candidate.num_tokens, 1)


@register_text("cascade")
class Cascade(TextCombiner):
    """Ask the members from the smallest to the largest, until one is sure enough.

    Sizes are numbers of parameters; members of one size are asked in their order. A candidate's score is its writer's
    confidence, the surest candidate of the last member asked is taken, and that member has all the weight.

    Args:
        threshold: The next member is asked when confidence is below this; one for all members, or one for each but
            the largest, from the smallest on. :func:`moesaic.combiners.calibrate_threshold` finds it on data.
        confidence: How sure a member is; see :func:`text_confidence`.

    Raises:
        ValueError: If there is no such measure of confidence.

    Reference: Chen et al. (2023), section 3, https://arxiv.org/abs/2305.05176; Jitkrittum et al. (2023), section 3,
    https://arxiv.org/abs/2307.02764
    """

    def __init__(self, *, threshold: float | Sequence[float], confidence: Confidence = "log_probability") -> None:
        if confidence not in get_args(Confidence):
            raise ValueError(f"confidence must be one of {', '.join(get_args(Confidence))}, got {confidence!r}.")
        self.threshold = threshold
        self.confidence: Confidence = confidence

    def combine(self, prompts: Sequence[str], panel: Panel) -> list[TextAnswer]:
        """See :meth:`TextCombiner.combine`.

        Raises:
            ValueError: If there is not one threshold a member but the largest.
        """
        sizes = panel.num_parameters
        order = sorted(sizes, key=lambda member: sizes[member])
        # Whoever is asked last has nobody to pass the question on to.
        thresholds = [*self._thresholds(order), float("-inf")]
        answers: dict[int, TextAnswer] = {}
        unsure = list(range(len(prompts)))
        for member, threshold in zip(order, thresholds, strict=True):
            given = panel.ask(member, [prompts[index] for index in unsure]) if unsure else []
            for index, candidates in zip(unsure, given, strict=True):
                answers[index] = self._extend(answers.get(index), member, candidates, list(sizes))
            unsure = [index for index in unsure if cascade_choice(self._surest(answers[index]), threshold)]
        return [answers[index] for index in range(len(prompts))]

    def _thresholds(self, order: Sequence[str]) -> list[float]:
        if not isinstance(self.threshold, Sequence):
            return [self.threshold] * (len(order) - 1)
        if len(self.threshold) != len(order) - 1:
            raise ValueError(
                f"There are {len(self.threshold)} thresholds for a cascade of {len(order)} members "
                f"({', '.join(order)}); give one for each member but the last."
            )
        return list(self.threshold)

    def _extend(
        self, before: TextAnswer | None, member: str, candidates: tuple[Candidate, ...], members: Sequence[str]
    ) -> TextAnswer:
        """The answer after one more member was asked: its own, and who was asked before it."""
        weights = {name: float(name == member) for name in members}
        scores = [text_confidence(candidate, self.confidence) for candidate in candidates]
        answer = take_best(candidates, scores, weights, [member])
        if before is None:
            return answer
        return replace(
            answer,
            candidates=before.candidates + answer.candidates,
            scores=before.scores + answer.scores,
            asked=before.asked + answer.asked,
        )

    def _surest(self, answer: TextAnswer) -> float:
        last = answer.asked[-1]
        return max(
            score for candidate, score in zip(answer.candidates, answer.scores, strict=True) if candidate.member == last
        )

    def arguments(self) -> dict[str, Any]:
        """See :meth:`TextCombiner.arguments`."""
        return {"threshold": self.threshold, "confidence": self.confidence}
