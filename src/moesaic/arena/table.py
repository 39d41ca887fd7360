"""The arena's table: every way of combining the same members, measured on the same documents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from moesaic.arena.bootstrap import Bootstrap, Interval, mean_value
from moesaic.arena.columns import (
    DIVERSITY,
    SECTIONS,
    TEMPERATURE,
    Column,
    Figure,
    Section,
    cost_columns,
    find_column,
    remember,
    value_of,
)
from moesaic.arena.grid import Grid, GridColumn, Gridded, GridSection, row_called, write_csv
from moesaic.arena.quantities import probability, signed
from moesaic.arena.rows import DENSE, ORACLE, Row
from moesaic.arena.scores import METRICS, DomainScores, Metric

_CALIBRATION = ("nats", "calibrated_nats", "calibrated_nats_per_token", "brier", "expected_calibration_error")


@dataclass(frozen=True)
class ArenaTable(Gridded):
    """All rows, the best first unless sorted otherwise.

    Attributes:
        rows: The rows, all about documents or all about examples.
        domains: The domains, in the order of the columns.
        bootstrap: How intervals are found.

    Raises:
        ValueError: If there is no row, or rows are about different things.
    """

    rows: tuple[Row, ...]
    domains: tuple[str, ...]
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("A table needs at least one row, got none.")
        for row in self.rows:
            for scores in row.scores.values():
                if scores.kind != self.scores.kind:
                    raise ValueError(
                        f"Row {row.name!r} was measured on {scores.kind}, row {self.rows[0].name!r} on "
                        f"{self.scores.kind}; put them into tables of their own."
                    )

    @property
    def scores(self) -> type[DomainScores]:
        """What the rows were measured by."""
        return type(self.rows[0].scores[self.domains[0]])

    @property
    def metric(self) -> Metric:
        """What decides which row is best: the loss of language models, the accuracy of classifiers."""
        return self.scores.metrics[0]

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
            KeyError: If there is none.
        """
        return row_called(name, self.rows)

    def mean(self, row: Row, metric: Metric | None = None) -> Interval:
        """A row's mean over domains, each counting the same; of the main metric if none is given.

        Raises:
            ValueError: If the metric was not measured.
        """
        return self.bootstrap.interval(row.scores, metric or self.metric, self.domains)

    def domain(self, row: Row, domain: str, metric: Metric | None = None) -> Interval:
        """A row's figure on one domain."""
        return self.bootstrap.interval(row.scores, metric or self.metric, [domain])

    def difference(self, first: Row, second: Row) -> Interval:
        """How much larger the main metric is for the first row than for the second, on the same documents."""
        return self.bootstrap.difference(first.scores, second.scores, self.metric, self.domains)

    def p_value(self, first: Row, second: Row) -> float:
        """How often chance alone makes two equal rows differ as much (:meth:`Bootstrap.p_value`)."""
        return self.bootstrap.p_value(first.scores, second.scores, self.metric, self.domains)

    @property
    def best_member(self) -> Row | None:
        """The expert that is best on its own; ``None`` if there is none."""
        experts = [row for row in self.rows if row.kind == "expert"]
        return sort_rows(experts, self._mean_column())[0] if experts else None

    # what is shown

    @cached_property
    def columns(self) -> list[Column]:
        """All columns in which something was measured; rows are compared with the best member."""
        return self.columns_against(self.best_member)

    def columns_against(self, peer: Row | None) -> list[Column]:
        """All columns in which something was measured.

        Args:
            peer: The row with which all others are compared; no comparison if ``None``.
        """
        everything = [*self._quality_columns(peer), *self._calibration_columns(), *cost_columns(self.scores.rows_read)]
        # Figures with intervals take a while, and a table asks for each several times.
        columns = [replace(column, measure=remember(column.measure)) for column in everything]
        return [column for column in columns if any(column.measure(row) is not None for row in self.rows)]

    def _quality_columns(self, peer: Row | None) -> list[Column]:
        def difference(row: Row) -> Figure:
            return None if peer is None or row is peer else self.difference(row, peer)

        def p_value(row: Row) -> Figure:
            return None if peer is None or row is peer else self.p_value(row, peer)

        metrics = [metric for metric in self.scores.metrics[1:] if metric not in _CALIBRATION]
        figures = dict.fromkeys(name for row in self.rows for name in row.figures)
        return [
            self._mean_column(),
            *(self._domain_column(domain) for domain in self.domains),
            Column("difference", "vs best member", "quality", difference, signed, True, self._largest_first),
            Column("p_value", "p", "quality", p_value, probability),
            *(self._metric_column(metric, "quality") for metric in metrics),
            *(_figure_column(name) for name in figures),
        ]

    @property
    def _largest_first(self) -> bool:
        return not METRICS[self.metric].lower_is_better

    def _mean_column(self) -> Column:
        return Column("mean", "mean", "quality", self.mean, shows_interval=True, largest_first=self._largest_first)

    def _domain_column(self, domain: str) -> Column:
        return Column(
            domain, domain, "quality", lambda row: self.domain(row, domain), largest_first=self._largest_first
        )

    def _calibration_columns(self) -> list[Column]:
        metrics = [metric for metric in self.scores.metrics if metric in _CALIBRATION]
        return [*(self._metric_column(metric, "calibration") for metric in metrics), TEMPERATURE, *DIVERSITY]

    def _metric_column(self, metric: Metric, section: Section) -> Column:
        facts = METRICS[metric]

        def measure(row: Row) -> Figure:
            if not all(row.scores[domain].has(metric) for domain in self.domains):
                return None
            return mean_value(row.scores, metric, self.domains) if facts.is_pooled else self.mean(row, metric)

        return Column(metric, facts.heading, section, measure, largest_first=not facts.lower_is_better)

    def sorted(self, by: str = "mean") -> ArenaTable:
        """The same table with its rows in another order, the best first.

        Args:
            by: The key of a column, as CSV files spell it; ``loss`` is the negative log-likelihood.

        Raises:
            ValueError: If nothing is called so, or it was not measured.
        """
        return replace(self, rows=tuple(self._sorted_rows(by)))

    def _sorted_rows(self, by: str) -> list[Row]:
        loss = "mean" if METRICS[self.metric].lower_is_better else "nats"
        return sort_rows(self.rows, find_column(self.columns, loss if by == "loss" else by))

    def grid(self, by: str = "mean") -> Grid:
        """See :meth:`Gridded.grid`."""
        rows = self._sorted_rows(by)
        return make_grid(rows, {column: [column.cell(row) for row in rows] for column in self.columns}, self.titles)

    @property
    def titles(self) -> dict[Section, str]:
        """What stands above the sections."""
        quality = f"{self.scores.task} (95% interval over {self.scores.kind})"
        return {"quality": quality, "calibration": "Calibration and diversity", "cost": "Cost"}

    def to_csv(self, by: str = "mean") -> str:
        """The table for a spreadsheet: full figures, an interval in three columns."""
        return write_csv(
            {"name": row.name, "kind": row.kind}
            | {key: value for column in self.columns for key, value in self._spread(column, row).items()}
            for row in self._sorted_rows(by)
        )

    def _spread(self, column: Column, row: Row) -> dict[str, object]:
        figure = column.measure(row)
        if not any(isinstance(column.measure(other), Interval) for other in self.rows):
            return {column.key: figure}
        ends = (figure.value, figure.low, figure.high) if isinstance(figure, Interval) else (None, None, None)
        return dict(zip((column.key, f"{column.key}_low", f"{column.key}_high"), ends, strict=True))

    def to_json(self) -> str:
        """The table with every document's scores, to be read back by :meth:`from_json`."""
        rows = [row.to_json() for row in self.rows]
        return json.dumps({"domains": self.domains, "bootstrap": asdict(self.bootstrap), "rows": rows})

    @classmethod
    def from_json(cls, text: str) -> ArenaTable:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        rows = tuple(Row.from_json(row) for row in values["rows"])
        return cls(rows, tuple(values["domains"]), Bootstrap(**values["bootstrap"]))

    # what it says

    def verdict(self) -> str:
        """What won and by how much, in a few sentences."""
        winner, *others = [row for row in sort_rows(self.rows, self._mean_column()) if row.name != ORACLE]
        next_best = f"; {self._against(winner, others[0])}, the next" if others else ""
        best_of, unit = self.scores.superlative, self.scores.unit
        sentences = [f"{best_of}: {winner.name}, {self.mean(winner)}{unit}{next_best}."]
        best = next((row for row in (winner, *others) if row.kind == "mixture"), None)
        peers = [row for row in (self.best_member, self._find(DENSE), self._find(ORACLE)) if row is not None]
        if best is not None and peers:
            compared = "; ".join(self._against(best, row) for row in peers)
            sentences.append(f"Best sparse mixture: {best.name}, {compared}.")
        return " ".join(sentences)

    def _find(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def _against(self, row: Row, other: Row) -> str:
        difference = self.difference(other, row)
        if not difference.excludes_zero:
            return f"level with {other.name} ({difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])"
        word = "below" if difference.value > 0 else "above"
        low, high = sorted((abs(difference.low), abs(difference.high)))
        return f"{abs(difference.value):.3f} [{low:.3f}, {high:.3f}] {word} {other.name}"


def sort_rows(rows: Sequence[Row], column: Column) -> list[Row]:
    """Rows by a column, the best first."""
    figures = [column.measure(row) for row in rows]
    values = [None if figure is None else value_of(figure) for figure in figures]
    order = sorted(range(len(rows)), key=lambda number: column.rank(values[number]))
    return [rows[number] for number in order]


def make_grid(rows: Sequence[Row], cells: Mapping[Column, Sequence[str]], titles: Mapping[Section, str]) -> Grid:
    """Put cells into their sections."""
    sections = [
        GridSection(
            titles[section],
            tuple(GridColumn(column.heading, tuple(cells[column])) for column in cells if column.section == section),
        )
        for section in SECTIONS
    ]
    return Grid(
        tuple(row.name for row in rows),
        tuple(row.kind for row in rows),
        tuple(section for section in sections if section.columns),
    )


def _figure_column(name: str) -> Column:
    return Column(name, name, "quality", lambda row: row.figures.get(name), largest_first=True)
