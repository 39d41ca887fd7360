"""The expert matrix: every expert on every domain, and what choosing among them gives."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import RenderableType

from moesaic.arena.columns import Column
from moesaic.arena.grid import Grid, GridColumn, GridSection
from moesaic.arena.quantities import decimals
from moesaic.arena.rows import ORACLE, Row, oracle_row
from moesaic.arena.scores import METRICS
from moesaic.arena.table import ArenaTable, sort_rows

UNIFORM = "probability average"
"""The row of an arena in which all experts have the same weight."""


@dataclass(frozen=True)
class ExpertMatrix:
    """Rows of an arena's table that tell what routing is worth, in the unit of its main metric.

    Attributes:
        table: The table.
        rows: Its experts, then the ways to choose among them, by what they are called here.
    """

    table: ArenaTable
    rows: dict[str, Row]

    def best_expert(self, domain: str) -> str:
        """The expert that is best on a domain; of the best ones, the first."""
        experts = {name: row for name, row in self.rows.items() if row.kind == "expert" and name == row.name}
        sign = 1 if METRICS[self.table.metric].lower_is_better else -1
        return min(experts, key=lambda name: sign * experts[name].scores[domain].value(self.table.metric))

    def grid(self) -> Grid:
        """The cells: a column a domain, and the mean over domains with its interval."""
        domains = [
            GridColumn(domain, tuple(decimals(self.table.domain(row, domain).value) for row in self.rows.values()))
            for domain in self.table.domains
        ]
        mean = GridColumn("mean", tuple(str(self.table.mean(row)) for row in self.rows.values()))
        kinds = tuple(row.kind for row in self.rows.values())
        section = GridSection(self.table.titles["quality"], (*domains, mean))
        return Grid(tuple(self.rows), kinds, (section,), heading="expert")

    def to_rich(self, *, width: int = 80) -> RenderableType:
        """The matrix for a terminal of so many columns."""
        return self.grid().to_rich(width)

    def to_markdown(self) -> str:
        """The matrix for a page."""
        return self.grid().to_markdown()

    def __str__(self) -> str:
        return self.to_markdown()


def expert_matrix(table: ArenaTable, *, routed: str | None = None, uniform: str | None = None) -> ExpertMatrix:
    """Every expert on every domain, with rows for the best single expert, uniform weights, a router and the oracle.

    Args:
        table: An arena in which the experts were measured.
        routed: The row of the mixture with a router; the best sparse mixture if not given.
        uniform: The row that weighs all experts alike; ``probability average``, where there is one, if not given.

    Raises:
        ValueError: If the table has no expert.
        KeyError: If it has no row that is called so.
    """
    experts = [row for row in table.rows if row.kind == "expert"]
    best = table.best_member
    if best is None:
        raise ValueError("The table has no expert to compare; measure the experts too (arena.combinations: experts).")
    rows = {row.name: row for row in experts} | {f"best single: {best.name}": best}
    named = {row.name: row for row in table.rows}
    if uniform is not None or UNIFORM in named:
        rows["uniform"] = table.row(uniform or UNIFORM)
    mixtures = sort_rows([row for row in table.rows if row.kind == "mixture"], _mean(table))
    if routed is not None or mixtures:
        chosen = table.row(routed) if routed is not None else mixtures[0]
        rows[f"routed: {chosen.name}"] = chosen
    if ORACLE in named:
        rows["oracle-routed"] = named[ORACLE]
    elif len(experts) == len(table.domains):
        rows["oracle-routed"] = oracle_row(experts, table.domains)
    return ExpertMatrix(table, rows)


def _mean(table: ArenaTable) -> Column:
    """The column that ranks rows."""
    return next(column for column in table.columns if column.key == "mean")
