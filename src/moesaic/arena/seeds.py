"""The arena's table over several random seeds: what a way of combining owes to luck."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from moesaic.arena.columns import MISSING, Column, Section, find_column, value_of
from moesaic.arena.grid import Grid, Gridded, write_csv
from moesaic.arena.rows import ORACLE, Row
from moesaic.arena.scores import METRICS, DomainScores, Metric
from moesaic.arena.table import ArenaTable, make_grid


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        value: The mean.
        deviation: Sample standard deviation.
        low: The least.
        high: The most.

    Example:
        >>> str(Spread.of([1.0, 2.0, 3.0]))
        '2.000 ± 1.000'
    """

    value: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least two values."""
        return cls(statistics.fmean(values), statistics.stdev(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.deviation:.3f}"


@dataclass(frozen=True)
class SeedTable(Gridded):
    """The same rows, trained and measured with several seeds.

    Attributes:
        tables: One table a seed.
    """

    tables: tuple[ArenaTable, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows with the first seed's costs, in its order."""
        return self.tables[0].rows

    @property
    def scores(self) -> type[DomainScores]:
        """What the rows were measured by."""
        return self.tables[0].scores

    @property
    def metric(self) -> Metric:
        """What decides which row is best."""
        return self.tables[0].metric

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.tables)

    def mean(self, row: Row, metric: Metric | None = None) -> Spread:
        """A metric of the row of that name, averaged over domains; the main metric if none is given.

        Raises:
            ValueError: If the metric was not measured.
        """
        return Spread.of([table.mean(table.row(row.name), metric).value for table in self.tables])

    @cached_property
    def best_member(self) -> Row | None:
        """The expert that is best on its own over all seeds; ``None`` if there is none."""
        sign = 1 if METRICS[self.metric].lower_is_better else -1
        experts = [row for row in self.rows if row.kind == "expert"]
        return min(experts, key=lambda row: sign * self.mean(row).value) if experts else None

    @cached_property
    def columns(self) -> list[Column]:
        """All columns that every seed's table has; a p-value is about one seed's documents, hence left out."""
        first, *others = self._columns_by_seed
        keys = set.intersection(*({column.key for column in columns} for columns in (first, *others)))
        return [column for column in first if column.key in keys - {"p_value"}]

    @cached_property
    def _columns_by_seed(self) -> list[list[Column]]:
        best = self.best_member
        return [table.columns_against(None if best is None else table.row(best.name)) for table in self.tables]

    def spread(self, row: Row, key: str) -> Spread | None:
        """A figure of a row over seeds; ``None`` where some seed did not measure it.

        Seeds are paired: in the column ``difference``, each seed's row is compared with the same seed's best member.

        Args:
            row: The row.
            key: The column, as CSV files spell it.

        Raises:
            ValueError: If there is no such column.
        """
        values = []
        for table, columns in zip(self.tables, self._columns_by_seed, strict=True):
            figure = find_column(columns, key).measure(table.row(row.name))
            if figure is None:
                return None
            values.append(value_of(figure))
        return Spread.of(values)

    def _sorted_rows(self, by: str) -> list[Row]:
        loss = "mean" if METRICS[self.metric].lower_is_better else "nats"
        column = find_column(self.columns, loss if by == "loss" else by)

        def rank(row: Row) -> float:
            spread = self.spread(row, column.key)
            return column.rank(None if spread is None else spread.value)

        return sorted(self.rows, key=rank)

    def grid(self, by: str = "mean") -> Grid:
        """See :meth:`Gridded.grid`."""
        rows = self._sorted_rows(by)
        return make_grid(
            rows, {column: [self._cell(row, column) for row in rows] for column in self.columns}, self.titles
        )

    def _cell(self, row: Row, column: Column) -> str:
        spread = self.spread(row, column.key)
        if spread is None:
            return MISSING
        if column.section == "cost":
            return column.show(spread.value)
        return f"{column.show(spread.value)} ± {column.show(spread.deviation).lstrip('+')}"

    @property
    def titles(self) -> dict[Section, str]:
        """What stands above the sections."""
        quality = f"{self.scores.task} (mean ± standard deviation over {self.num_seeds} seeds)"
        return self.tables[0].titles | {"quality": quality}

    def to_csv(self, by: str = "mean") -> str:
        """The table for a spreadsheet: of each figure the mean, the standard deviation, the least and the most."""
        return write_csv(
            {"name": row.name, "kind": row.kind}
            | {key: value for column in self.columns for key, value in self._figures(row, column.key).items()}
            for row in self._sorted_rows(by)
        )

    def _figures(self, row: Row, key: str) -> dict[str, object]:
        spread = self.spread(row, key)
        names = (key, f"{key}_deviation", f"{key}_min", f"{key}_max")
        if spread is None:
            return dict.fromkeys(names)
        return dict(zip(names, (spread.value, spread.deviation, spread.low, spread.high), strict=True))

    def to_json(self) -> str:
        """Every seed's table, to be read back by :meth:`from_json`."""
        return json.dumps({"tables": [json.loads(table.to_json()) for table in self.tables]})

    @classmethod
    def from_json(cls, text: str) -> SeedTable:
        """Read what :meth:`to_json` wrote."""
        return combine_seeds([ArenaTable.from_json(json.dumps(table)) for table in json.loads(text)["tables"]])

    def verdict(self) -> str:
        """What won, and by how much over the best member."""
        winner = next(row for row in self._sorted_rows("mean") if row.name != ORACLE)
        sentence = f"{self.scores.superlative} over {self.num_seeds} seeds: {winner.name}, {self.mean(winner)}"
        difference = self.spread(winner, "difference") if self.best_member is not None else None
        if self.best_member is None or difference is None:
            return f"{sentence}{self.scores.unit}."
        against = f"{difference.value:+.3f} ± {difference.deviation:.3f} against {self.best_member.name}"
        return f"{sentence}{self.scores.unit}; {against}, the best member."


def combine_seeds(tables: Sequence[ArenaTable]) -> SeedTable:
    """Put the tables of several seeds into one.

    Args:
        tables: One table a seed, with the same rows and domains.

    Raises:
        ValueError: If there are fewer than two tables, or their rows or domains differ.
    """
    if len(tables) < 2:
        raise ValueError(f"A spread over seeds needs at least two tables, got {len(tables)}.")
    first = tables[0]
    names = {row.name for row in first.rows}
    for number, table in enumerate(tables[1:], start=2):
        if table.domains != first.domains:
            raise ValueError(
                f"Table {number} has the domains {', '.join(table.domains)}, the first {', '.join(first.domains)}; "
                "measure all seeds on the same ones."
            )
        different = sorted(names ^ {row.name for row in table.rows})
        if different:
            raise ValueError(
                f"Table {number} and the first do not have the same rows: only one has {', '.join(different)}."
            )
    return SeedTable(tuple(tables))
