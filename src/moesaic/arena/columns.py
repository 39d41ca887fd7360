"""What a table shows of its rows: one column a figure, in sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from moesaic.arena.bootstrap import Interval
from moesaic.arena.quantities import count, decimals, num_bytes, power
from moesaic.arena.rows import Row

Section = Literal["quality", "calibration", "cost"]
SECTIONS: tuple[Section, ...] = ("quality", "calibration", "cost")
Figure = Interval | float | None

MISSING = "–"
"""What stands where nothing was measured."""


@dataclass(frozen=True)
class Column:
    """One figure of every row.

    Attributes:
        key: What CSV files call it, and what a table is sorted by.
        heading: What stands above it.
        section: Where it belongs.
        measure: The figure of a row; ``None`` where it was not measured.
        show: How its numbers are spelled.
        shows_interval: Whether its interval is shown beside it; CSV files always have it.
        largest_first: Whether more of it is better.
    """

    key: str
    heading: str
    section: Section
    measure: Callable[[Row], Figure]
    show: Callable[[float], str] = decimals
    shows_interval: bool = False
    largest_first: bool = False

    def cell(self, row: Row) -> str:
        """What a table shows of a row."""
        figure = self.measure(row)
        if figure is None:
            return MISSING
        if isinstance(figure, Interval) and self.shows_interval:
            return f"{self.show(figure.value)} [{self.show(figure.low)}, {self.show(figure.high)}]"
        return self.show(value_of(figure))

    def rank(self, value: float | None) -> float:
        """Where a row stands: the least first, the best, and last what was not measured."""
        if value is None:
            return float("inf")
        return -value if self.largest_first else value


def remember(measure: Callable[[Row], Figure]) -> Callable[[Row], Figure]:
    """The same measure, which works out every row's figure only once."""
    known: dict[int, tuple[Row, Figure]] = {}

    def remembered(row: Row) -> Figure:
        if id(row) not in known:
            known[id(row)] = (row, measure(row))  # the row is kept, so that no other can get its id
        return known[id(row)][1]

    return remembered


def value_of(figure: Interval | float) -> float:
    """A figure without its interval."""
    return figure.value if isinstance(figure, Interval) else figure


def find_column(columns: Sequence[Column], key: str) -> Column:
    """The column of a key.

    Raises:
        ValueError: If there is none.
    """
    for column in columns:
        if column.key == key:
            return column
    raise ValueError(f"No column is called {key!r}; there are {', '.join(column.key for column in columns)}.")


def _of_diversity(name: str) -> Callable[[Row], Any]:
    return lambda row: None if row.diversity is None else getattr(row.diversity, name)


DIVERSITY = (
    Column("disagreement", "disagreement", "calibration", _of_diversity("disagreement"), largest_first=True),
    Column("error_correlation", "error correlation", "calibration", _of_diversity("error_correlation")),
)
"""How differently the members of an ensemble answer."""

TEMPERATURE = Column("temperature", "temperature", "calibration", attrgetter("temperature"))


def cost_columns(rows_read: str) -> tuple[Column, ...]:
    """What rows cost.

    Args:
        rows_read: What a model reads: tokens or examples.
    """
    speed = f"{rows_read}/s"
    return (
        Column("total_parameters", "total", "cost", attrgetter("total_parameters"), count),
        Column("active_parameters", "active", "cost", attrgetter("active_parameters"), count),
        Column("tokens_per_second", speed, "cost", attrgetter("tokens_per_second"), count, largest_first=True),
        Column("peak_bytes", "peak memory", "cost", attrgetter("peak_bytes"), num_bytes),
        Column("training_tokens", "trained on", "cost", attrgetter("training_tokens"), count),
        Column("training_flops", "training FLOPs", "cost", attrgetter("training_flops"), power),
    )
