"""The arena of a task in which models write text: every system on every domain, by the task's own metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moesaic.arena.grid import Grid, GridColumn, Gridded, GridSection, row_called, write_csv
from moesaic.arena.rows import Kind
from moesaic.tasks import Measured

MISSING = "–"
"""What a cell shows where a system was not measured: an ensemble for one domain on another, for instance."""

SIGNIFICANT = 0.05
"""Differences from the baseline with a smaller p-value are marked."""


@dataclass(frozen=True)
class TaskRow:
    """One system.

    Attributes:
        name: What it is.
        kind: An expert alone, a reference, an ensemble or a mixture.
        cells: Its metrics, by domain and metric.
        total_parameters: Parameters in all.
        active_parameters: Parameters that work on a source and its target.
        training_pairs: Pairs that it was trained on, those of its members included; one counts as often as it was read.
        seconds: Time that it took to write its answers, for each domain.
    """

    name: str
    kind: Kind
    cells: Mapping[str, Mapping[str, Measured]]
    total_parameters: int
    active_parameters: int
    training_pairs: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class TaskTable(Gridded):
    """All systems, in the order of the road.

    Attributes:
        rows: The systems.
        domains: The domains, in the order of the columns.
        metrics: The metrics; the first decides.
        baselines: For each domain, the row with which the others are compared there.
        signatures: How each metric was computed.
        confusion: For each domain, the share of its sources that the router sent to each expert; empty without one.
    """

    rows: tuple[TaskRow, ...]
    domains: tuple[str, ...]
    metrics: tuple[str, ...]
    baselines: Mapping[str, str]
    signatures: Mapping[str, str]
    confusion: Mapping[str, Mapping[str, float]]

    def row(self, name: str) -> TaskRow:
        """The row of that name.

        Raises:
            KeyError: If there is none.
        """
        return row_called(name, self.rows)

    def mean(self, row: TaskRow, metric: str | None = None) -> float | None:
        """A row's mean over domains, each counting the same; ``None`` if one was not measured."""
        cells = [row.cells.get(domain, {}).get(metric or self.metrics[0]) for domain in self.domains]
        if any(cell is None for cell in cells):
            return None
        return sum(cell.value for cell in cells if cell is not None) / len(cells)

    @property
    def router_accuracy(self) -> float | None:
        """Share of the sources that the router sends to their own domain's expert, the mean over domains."""
        if not self.confusion:
            return None
        return sum(self.confusion[domain].get(domain, 0.0) for domain in self.domains) / len(self.domains)

    def grid(self, by: str = "mean") -> Grid:
        """See :meth:`Gridded.grid`; rows keep the order of the road."""
        sections = [GridSection(metric, tuple(self._columns(metric))) for metric in self.metrics]
        cost = (
            GridColumn("total", tuple(f"{row.total_parameters:,}" for row in self.rows)),
            GridColumn("active", tuple(f"{row.active_parameters:,}" for row in self.rows)),
            GridColumn("pairs read", tuple(f"{row.training_pairs:,}" for row in self.rows)),
            GridColumn("seconds", tuple(f"{sum(row.seconds.values()):.0f}" for row in self.rows)),
        )
        names, kinds = tuple(row.name for row in self.rows), tuple(row.kind for row in self.rows)
        return Grid(names, kinds, (*sections, GridSection("cost", cost)))

    def _columns(self, metric: str) -> list[GridColumn]:
        means = [self.mean(row, metric) for row in self.rows]
        columns = [GridColumn("mean", tuple(MISSING if mean is None else f"{mean:.2f}" for mean in means))]
        for domain in self.domains:
            cells = tuple(_cell(row.cells.get(domain, {}).get(metric)) for row in self.rows)
            columns.append(GridColumn(domain, cells))
        return columns

    def verdict(self) -> str:
        """What the table says in sentences: the best system that was trained, and how often the router is right."""
        metric = self.metrics[0]
        trained = [row for row in self.rows if row.total_parameters]
        ranked = sorted(
            ((mean, row) for row in trained if (mean := self.mean(row)) is not None), key=lambda pair: -pair[0]
        )
        lines = [f"Best on average over domains: {ranked[0][1].name}, {metric} {ranked[0][0]:.2f}."]
        if self.router_accuracy is not None:
            lines.append(f"The router sends {self.router_accuracy:.1%} of the sources to their own domain's expert.")
        return " ".join(lines)

    def confusion_markdown(self) -> str:
        """The router as a classifier of domains: a row a true domain, a column an expert, in shares."""
        header = "| sources of | " + " | ".join(self.domains) + " |\n| --- |" + " ---: |" * len(self.domains)
        lines = []
        for domain in self.domains:
            shares = [f"{self.confusion[domain].get(name, 0.0):.1%}" for name in self.domains]
            lines.append("| " + " | ".join([domain, *shares]) + " |")
        return "\n".join([header, *lines]) + "\n"

    def to_csv(self) -> str:
        """One line for each system, domain and metric."""
        return write_csv(
            {"way of combining": row.name, "domain": domain, "metric": metric} | asdict(cell)
            for row in self.rows
            for domain, cells in row.cells.items()
            for metric, cell in cells.items()
        )

    def to_json(self) -> str:
        """The table as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TaskTable:
        """Read what :meth:`to_json` gave."""
        values = json.loads(text)
        return cls(
            rows=tuple(_row_from_json(row) for row in values["rows"]),
            domains=tuple(values["domains"]),
            metrics=tuple(values["metrics"]),
            baselines=values["baselines"],
            signatures=values["signatures"],
            confusion=values["confusion"],
        )


def oracle_task_row(experts: Sequence[TaskRow], domains: Sequence[str], name: str) -> TaskRow:
    """What one gets who knows every source's domain: each domain is answered by its own expert.

    Args:
        experts: One row a domain, in the order of the domains.
        domains: The domains.
        name: What the row is called.
    """
    paired = list(zip(domains, experts, strict=True))
    return TaskRow(
        name,
        "reference",
        {domain: row.cells[domain] for domain, row in paired},
        total_parameters=sum(row.total_parameters for row in experts),
        active_parameters=max(row.active_parameters for row in experts),
        training_pairs=sum(row.training_pairs for row in experts),
        seconds={domain: row.seconds[domain] for domain, row in paired},
    )


def _cell(measured: Measured | None) -> str:
    if measured is None:
        return MISSING
    mark = "*" if measured.p_value is not None and measured.p_value < SIGNIFICANT else ""
    return f"{measured.value:.2f} ± {(measured.high - measured.low) / 2:.2f}{mark}"


def _row_from_json(values: dict[str, Any]) -> TaskRow:
    cells = {
        domain: {metric: Measured(**cell) for metric, cell in metrics.items()}
        for domain, metrics in values["cells"].items()
    }
    return TaskRow(**(values | {"cells": cells}))
