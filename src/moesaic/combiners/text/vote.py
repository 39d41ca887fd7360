"""The answer that most members give."""

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
from moesaic.types import Candidate, TextAnswer


def same_wording(text: str) -> str:
    """A text without case and without differences of white space: answers equal in this are one answer.

    Example:
        >>> same_wording("  Forty   Two")
        'forty two'
    """
    return " ".join(text.casefold().split())


def vote_shares(votes: Sequence[str], weights: Sequence[float] | None = None) -> dict[str, float]:
    """Share of the votes that each answer has.

    Args:
        votes: One answer a voter.
        weights: What each vote counts; all the same if not given.

    Returns:
        The shares, which sum to 1, in the order in which the answers first occur.

    Raises:
        ValueError: If there are no votes, not as many weights as votes, or weights that are negative or all 0.

    Example:
        >>> vote_shares(["4", "5", "4", "6"])
        {'4': 0.5, '5': 0.25, '6': 0.25}
    """
    if not votes:
        raise ValueError("A vote needs at least one voter, got none.")
    check_weights(weights)
    counts = [1.0] * len(votes) if weights is None else list(weights)
    if len(counts) != len(votes):
        raise ValueError(f"There are {len(counts)} weights for {len(votes)} votes; give one a vote.")
    shares = dict.fromkeys(votes, 0.0)
    for vote, count in zip(votes, counts, strict=True):
        shares[vote] += count / sum(counts)
    return shares


@register_text("vote")
class Vote(TextCombiner):
    """Majority vote over finished answers.

    The answer with most votes is taken, in the words of the first member that gave it; of answers with equally many
    votes, the one whose first voter comes first. A member with several candidates shares its vote among them. A
    candidate's score is its answer's share of the votes; a member's weight is its share of the votes for the answer
    that was taken.

    Args:
        weights: What each member's vote counts, in the members' order; all the same if not given.
        extract: What counts as the answer in a text, for instance the number after the last equals sign.
        normalize: Makes equal what is the same answer; by default case and white space do not matter.

    Raises:
        ValueError: If weights are negative or all 0.

    Reference: Wang et al. (2022), section 2, https://arxiv.org/abs/2203.11171
    """

    def __init__(
        self,
        *,
        weights: Sequence[float] | None = None,
        extract: Callable[[str], str] | None = None,
        normalize: Callable[[str], str] = same_wording,
    ) -> None:
        check_weights(weights)
        self.weights = weights
        self.extract = extract
        self.normalize = normalize

    def combine(self, prompts: Sequence[str], panel: Panel) -> list[TextAnswer]:
        """See :meth:`TextCombiner.combine`."""
        weights = member_weights(self.weights, list(panel.num_parameters))
        return [self._choose(candidates, weights) for candidates in ask_all(prompts, panel)]

    def _choose(self, candidates: tuple[Candidate, ...], weights: dict[str, float]) -> TextAnswer:
        votes = [self._answer(candidate.text) for candidate in candidates]
        counts = [weights[candidate.member] for candidate in candidates]
        shares = vote_shares(votes, counts)
        taken = max(shares, key=lambda answer: shares[answer])
        voters = dict.fromkeys(weights, 0.0)
        for vote, count, candidate in zip(votes, counts, candidates, strict=True):
            voters[candidate.member] += count if vote == taken else 0.0
        total = sum(voters.values())
        scores = [shares[vote] for vote in votes]
        return take_best(candidates, scores, {name: count / total for name, count in voters.items()}, list(weights))

    def _answer(self, text: str) -> str:
        return self.normalize(text if self.extract is None else self.extract(text))

    def arguments(self) -> dict[str, Any]:
        """See :meth:`TextCombiner.arguments`."""
        named = {"extract": self.extract, "normalize": self.normalize}
        return {"weights": self.weights} | {name: getattr(value, "__name__", value) for name, value in named.items()}
