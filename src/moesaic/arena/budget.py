"""What a way of combining may use in training, its members' training included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from moesaic.arena.quantities import count, power
from moesaic.errors import BudgetError


class TrainingCost(Protocol):
    """What has a cost: a row that was measured, or one that is planned."""

    @property
    def training_tokens(self) -> int | None:
        """Tokens that are trained on, those of the members included; ``None`` where that is not known."""
        ...

    @property
    def training_flops(self) -> float | None:
        """Floating-point operations of that training; ``None`` where that is not known."""
        ...


@dataclass(frozen=True)
class PlannedCost:
    """What a row will cost.

    Attributes:
        training_tokens: Tokens to train on, those of the members included.
        training_flops: Floating-point operations of that training.
    """

    training_tokens: int | None = None
    training_flops: float | None = None


@dataclass(frozen=True)
class Budget:
    """The most that any row may use.

    Attributes:
        training_tokens: Tokens trained on, those of the members included; not limited if ``None``.
        training_flops: Floating-point operations of that training; not limited if ``None``.
    """

    training_tokens: int | None = None
    training_flops: float | None = None

    def check(self, cost: TrainingCost, name: str) -> None:
        """Refuse a row that costs more.

        Raises:
            BudgetError: If it does, or its cost is not known.
        """
        self.check_line_up({name: cost})

    def check_line_up(self, costs: Mapping[str, TrainingCost]) -> None:
        """Refuse a line-up in which any row costs more.

        Args:
            costs: The cost of every row, by its name.

        Raises:
            BudgetError: If a row does, or its cost is not known; all such rows are named.
        """
        problems = [problem for name, cost in costs.items() for problem in self._problems(cost, name)]
        if problems:
            raise BudgetError(
                "; ".join(problems) + ". Lower the number of members, rounds or steps, or raise arena.budget."
            )

    def _problems(self, cost: TrainingCost, name: str) -> list[str]:
        return [
            *_problem(name, "training tokens", cost.training_tokens, self.training_tokens, count),
            *_problem(name, "training FLOPs", cost.training_flops, self.training_flops, power),
        ]


def _problem(name: str, unit: str, cost: float | None, budget: float | None, show: Callable[[float], str]) -> list[str]:
    if budget is None or (cost is not None and cost <= budget):
        return []
    if cost is None:
        return [f"what {name} needs in {unit} is not known, and the budget is {show(budget)}"]
    needed, allowed = show(cost), show(budget)
    if needed == allowed:  # the difference is in digits that are not shown
        needed, allowed = f"{cost:,.0f}", f"{budget:,.0f}"
    return [f"{name} needs {needed} {unit}, members' training included, and the budget is {allowed}"]
