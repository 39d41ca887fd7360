"""The arena of a task in which models write text: every system on every domain, by the task's own metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
class TaskReference:
    """The model that knows all domains of a task and no other task, and how it compares on one of them.

    Attributes:
        name: Its row.
        p_values: For every other row that was measured there, how often chance alone makes two equal systems differ as
            much in the metric that decides.
    """

    name: str
    p_values: Mapping[str, float]


@dataclass(frozen=True)
class TaskTable(Gridded):
    """All systems, in the order of the road.

    Attributes:
        rows: The systems.
        domains: The domains, in the order of the columns.
        metrics: The metrics; the first decides, where domains have not their own.
        baselines: For each domain, the row with which the others are compared there.
        signatures: How each metric was computed.
        confusion: For each domain, the share of its sources that the router sent to each expert; empty without one.
        domain_metrics: Where domains are of several tasks, the metrics of each, of which the first decides there.
        task_references: The model of a domain's task alone, for domains that have one.
    """

    rows: tuple[TaskRow, ...]
    domains: tuple[str, ...]
    metrics: tuple[str, ...]
    baselines: Mapping[str, str]
    signatures: Mapping[str, str]
    confusion: Mapping[str, Mapping[str, float]]
    domain_metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    task_references: Mapping[str, TaskReference] = field(default_factory=dict)

    def row(self, name: str) -> TaskRow:
        """The row of that name.

        Raises:
            KeyError: If there is none.
        """
        return row_called(name, self.rows)

    def metrics_of(self, domain: str) -> tuple[str, ...]:
        """What systems are compared by on a domain; the first decides."""
        return self.domain_metrics.get(domain, self.metrics)

    def mean(self, row: TaskRow, metric: str | None = None) -> float | None:
        """A row's mean over domains, each counting the same; ``None`` if one was not measured.

        Args:
            row: The row.
            metric: The metric; the one that decides in each domain if not given.
        """
        cells = [row.cells.get(domain, {}).get(metric or self.metrics_of(domain)[0]) for domain in self.domains]
        if any(cell is None for cell in cells):
            return None
        return sum(cell.value for cell in cells if cell is not None) / len(cells)

    def change(self, row: TaskRow, domain: str, reference: str | None = None) -> float | None:
        """How much better a row is on a domain than another row: by how much others' pairs helped it, or hurt.

        Args:
            row: The row.
            domain: The domain.
            reference: The other row; the domain's own expert if not given.

        Returns:
            The difference in the metric that decides there; ``None`` if the row was not measured.
        """
        metric = self.metrics_of(domain)[0]
        if domain not in row.cells:
            return None
        other = self.row(reference or self.baselines[domain])
        return row.cells[domain][metric].value - other.cells[domain][metric].value

    def mean_change(self, row: TaskRow) -> float | None:
        """A row's mean change over domains, each counting the same; ``None`` if one was not measured."""
        changes = [self.change(row, domain) for domain in self.domains]
        if any(change is None for change in changes):
            return None
        return sum(change for change in changes if change is not None) / len(changes)

    @property
    def router_accuracy(self) -> float | None:
        """Share of the sources that the router sends to their own domain's expert, the mean over domains."""
        if not self.confusion:
            return None
        return sum(self.confusion[domain].get(domain, 0.0) for domain in self.domains) / len(self.domains)

    def grid(self, by: str = "mean") -> Grid:
        """See :meth:`Gridded.grid`; rows keep the order of the road."""
        sections = self._sections_of_tasks() if self.domain_metrics else self._sections_of_metrics()
        cost = (
            GridColumn("total", tuple(f"{row.total_parameters:,}" for row in self.rows)),
            GridColumn("active", tuple(f"{row.active_parameters:,}" for row in self.rows)),
            GridColumn("pairs read", tuple(f"{row.training_pairs:,}" for row in self.rows)),
            GridColumn("seconds", tuple(f"{sum(row.seconds.values()):.0f}" for row in self.rows)),
        )
        names, kinds = tuple(row.name for row in self.rows), tuple(row.kind for row in self.rows)
        return Grid(names, kinds, (*sections, GridSection("cost", cost)))

    def _sections_of_metrics(self) -> list[GridSection]:
        return [GridSection(metric, tuple(self._columns(metric))) for metric in self.metrics]

    def _sections_of_tasks(self) -> list[GridSection]:
        """What decides in each domain, by how much it differs from the domain's own expert, and all other metrics."""
        main = {domain: self.metrics_of(domain)[0] for domain in self.domains}
        scores = [self._column(f"{domain} ({metric})", domain, metric) for domain, metric in main.items()]
        means = [self.mean_change(row) for row in self.rows]
        changes = [GridColumn("mean", tuple(MISSING if mean is None else f"{mean:+.2f}" for mean in means))]
        changes += [
            GridColumn(f"{domain} ({metric})", tuple(self._change_cell(row, domain) for row in self.rows))
            for domain, metric in main.items()
        ]
        others = [
            self._column(f"{domain} ({metric})", domain, metric)
            for domain in self.domains
            for metric in self.metrics_of(domain)[1:]
        ]
        sections = [GridSection("score", tuple(scores)), GridSection("change from the own expert", tuple(changes))]
        if self.task_references:
            columns = [
                GridColumn(f"{domain} ({main[domain]})", tuple(self._task_cell(row, domain) for row in self.rows))
                for domain in self.task_references
            ]
            sections.append(GridSection("change from the model of the task alone", tuple(columns)))
        return [*sections, GridSection("other metrics", tuple(others))] if others else sections

    def _change_cell(self, row: TaskRow, domain: str) -> str:
        change = self.change(row, domain)
        if change is None:
            return MISSING
        return f"{change:+.2f}{_mark(row.cells[domain][self.metrics_of(domain)[0]].p_value)}"

    def _task_cell(self, row: TaskRow, domain: str) -> str:
        reference = self.task_references[domain]
        change = self.change(row, domain, reference.name)
        return MISSING if change is None else f"{change:+.2f}{_mark(reference.p_values.get(row.name))}"

    def _columns(self, metric: str) -> list[GridColumn]:
        means = [self.mean(row, metric) for row in self.rows]
        columns = [GridColumn("mean", tuple(MISSING if mean is None else f"{mean:.2f}" for mean in means))]
        return [*columns, *(self._column(domain, domain, metric) for domain in self.domains)]

    def _column(self, heading: str, domain: str, metric: str) -> GridColumn:
        return GridColumn(heading, tuple(_cell(row.cells.get(domain, {}).get(metric)) for row in self.rows))

    def verdict(self) -> str:
        """What the table says in sentences: the best system that was trained, and how often the router is right.

        Points of different metrics are not the same; where there are several, what each domain's own expert has is
        taken off before the mean is.
        """
        trained = [row for row in self.rows if row.total_parameters]
        ranked = sorted(
            ((mean, row) for row in trained if (mean := self.mean(row)) is not None), key=lambda pair: -pair[0]
        )
        mean, best = ranked[0]
        lines = [f"Best on average over domains: {best.name}, {self.metrics[0]} {mean:.2f}."]
        if self.domain_metrics:
            lines = [f"Best on average over domains: {best.name}. {self._transfer(best)}"]
        if self.router_accuracy is not None:
            lines.append(f"The router sends {self.router_accuracy:.1%} of the sources to their own domain's expert.")
        return " ".join(lines)

    def _transfer(self, row: TaskRow) -> str:
        """Which domains gain and lose against their own experts, as far as the differences are not chance."""
        changed: dict[str, list[str]] = {"gains": [], "loses": []}
        for domain in self.domains:
            cell, change = row.cells[domain][self.metrics_of(domain)[0]], self.change(row, domain)
            if change and _mark(cell.p_value):
                changed["gains" if change > 0 else "loses"].append(
                    f"{domain} ({change:+.2f} {self.metrics_of(domain)[0]})"
                )
        said = [f"it {verb} on {', '.join(domains)}" for verb, domains in changed.items() if domains]
        if not said:
            return "Nowhere does it differ from the domain's own expert by more than chance."
        return f"Against the domains' own experts {' and '.join(said)}."

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
            # Not there in tables that are older than several tasks in one.
            domain_metrics={name: tuple(own) for name, own in values.get("domain_metrics", {}).items()},
            task_references={
                domain: TaskReference(**reference) for domain, reference in values.get("task_references", {}).items()
            },
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
    return f"{measured.value:.2f} ± {(measured.high - measured.low) / 2:.2f}{_mark(measured.p_value)}"


def _mark(p_value: float | None) -> str:
    return "*" if p_value is not None and p_value < SIGNIFICANT else ""


def _row_from_json(values: dict[str, Any]) -> TaskRow:
    cells = {
        domain: {metric: Measured(**cell) for metric, cell in metrics.items()}
        for domain, metrics in values["cells"].items()
    }
    return TaskRow(**(values | {"cells": cells}))
