"""How differently the members of an ensemble answer: without that, combining them is for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from moesaic.mixture import Mixture


@dataclass(frozen=True)
class Diversity:
    """How differently members answer, as a mean over pairs of them.

    Attributes:
        disagreement: Share of the rows on which two members give different answers.
        error_correlation: Pearson correlation of being wrong; ``None`` where no pair has one, since members that are
            always or never wrong have none.

    Reference: Kuncheva and Whitaker (2003), section 2, https://doi.org/10.1023/A:1022859003006
    """

    disagreement: float
    error_correlation: float | None


def diversity(predictions: Int[Tensor, "member row"], labels: Int[Tensor, " row"]) -> Diversity:
    """How differently members answer the same rows.

    Args:
        predictions: The answer of every member.
        labels: The right answers.

    Raises:
        ValueError: If there are fewer than two members, or no row.

    Example:
        >>> # members differ on one row of four; the errors are (0, 0, 1, 1) and (0, 0, 1, 0)
        >>> diversity(torch.tensor([[1, 1, 2, 2], [1, 1, 2, 1]]), torch.tensor([1, 1, 1, 1]))
        Diversity(disagreement=0.25, error_correlation=0.577...)
    """
    counts = PairCounts(len(predictions))
    counts.add(predictions, labels)
    return counts.diversity()


class PairCounts:
    """Counts over rows that come batch by batch, for every pair of members.

    Args:
        num_members: Number of members.

    Raises:
        ValueError: If there are fewer than two.
    """

    def __init__(self, num_members: int) -> None:
        if num_members < 2:
            raise ValueError(f"Diversity is about pairs of members: there must be at least 2, got {num_members}.")
        self.num_rows = 0
        self.differ = torch.zeros(num_members, num_members, dtype=torch.float64)
        self.both_wrong = torch.zeros_like(self.differ)

    def add(self, predictions: Int[Tensor, "member row"], labels: Int[Tensor, " row"]) -> None:
        """Count some rows."""
        self.num_rows += len(labels)
        for member, answers in enumerate(predictions):
            self.differ[member] += (predictions != answers).sum(dim=1).cpu()
        wrong = (predictions != labels).float()
        # A count of one batch is exact in float32.
        self.both_wrong += (wrong @ wrong.T).cpu()

    def diversity(self) -> Diversity:
        """What was counted.

        Raises:
            ValueError: If no row was.
        """
        if not self.num_rows:
            raise ValueError("Diversity is measured on rows, and there are none. Give at least one.")
        size = len(self.differ)
        first, second = torch.triu_indices(size, size, offset=1)
        share_wrong = self.both_wrong / self.num_rows
        rates = share_wrong.diagonal()
        deviations = (rates * (1 - rates)).sqrt()
        covariance = (share_wrong - rates.outer(rates))[first, second]
        scale = deviations[first] * deviations[second]
        correlations = covariance[scale > 0] / scale[scale > 0]
        return Diversity(
            float(self.differ[first, second].mean() / self.num_rows),
            float(correlations.mean()) if len(correlations) else None,
        )


class MemberAnswers:
    """Notes the likeliest answer of every member while a mixture is read; a context manager.

    Args:
        mixture: The mixture; ``None`` notes nothing.
    """

    def __init__(self, mixture: Mixture | None) -> None:
        self.mixture = mixture

    def __enter__(self) -> MemberAnswers:
        # What members say passes through the combiner, however they are run.
        self._hooks = [] if self.mixture is None else [self.mixture.combiner.register_forward_pre_hook(self._note)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, _: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self._predictions = inputs[0].argmax(dim=-1)

    @property
    def predictions(self) -> Int[Tensor, "member batch position"]:
        """The answers to the batch that was read last."""
        return self._predictions
