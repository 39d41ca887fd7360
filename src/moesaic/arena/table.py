"""The arena's table: every way of combining the same members, measured on the same documents."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from moesaic.arena.scores import Bootstrap, DocumentScores, Interval, Metric

Kind = Literal["expert", "reference", "ensemble", "mixture"]
SortKey = Literal["loss", "active_parameters", "tokens_per_second", "training_tokens"]

ORACLE = "oracle (domain known)"
DENSE = "dense, same total tokens"

_COLUMNS = ("way of combining", "mean", "bits/byte", "total", "active", "tokens/s", "trained on")
"""What every table shows; the domains' own columns follow the mean."""

_WIDE = 120
"""Columns of a terminal from which losses and costs stand side by side."""


@dataclass(frozen=True)
class Row:
    """One way of answering.

    Attributes:
        name: What it is.
        kind: An expert alone, a reference, an ensemble of whole models, or a sparse mixture.
        scores: Its scores on every domain.
        total_parameters: Parameters in all.
        active_parameters: Parameters that work on a token.
        tokens_per_second: Tokens read in a second; ``None`` for what is no model that can be run.
        training_tokens: Tokens on which it was trained, those of its members and of their seed included; ``None`` where
            that is not known.
    """

    name: str
    kind: Kind
    scores: dict[str, DocumentScores]
    total_parameters: int
    active_parameters: int
    tokens_per_second: float | None
    training_tokens: int | None


@dataclass(frozen=True)
class ArenaTable:
    """All rows, the best first unless sorted otherwise.

    Attributes:
        rows: The rows.
        domains: The domains, in the order of the columns.
        bootstrap: How intervals are found.
    """

    rows: tuple[Row, ...]
    domains: tuple[str, ...]
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def sorted(self, by: SortKey = "loss") -> ArenaTable:
        """The same table with its rows in another order."""
        keys: dict[str, Callable[[Row], float]] = {
            "loss": lambda row: self.mean(row).value,
            "active_parameters": lambda row: row.active_parameters,
            "tokens_per_second": lambda row: -(row.tokens_per_second or 0),
            "training_tokens": lambda row: row.training_tokens or 0,
        }
        return ArenaTable(tuple(sorted(self.rows, key=keys[by])), self.domains, self.bootstrap)

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"The table has no row {name!r}; it has {', '.join(row.name for row in self.rows)}.")

    def mean(self, row: Row, metric: Metric = "nats_per_token") -> Interval:
        """A row's mean over domains, each counting the same."""
        return self.bootstrap.interval(row.scores, metric, self.domains)

    def domain(self, row: Row, domain: str, metric: Metric = "nats_per_token") -> Interval:
        """A row's figure on one domain."""
        return self.bootstrap.interval(row.scores, metric, [domain])

    def difference(self, first: Row, second: Row) -> Interval:
        """How many nats per token more the first row loses than the second, on the same documents."""
        return self.bootstrap.difference(first.scores, second.scores, "nats_per_token", self.domains)

    def verdict(self) -> str:
        """What won and by how much, in a few sentences."""
        winner, *others = [row for row in self.sorted().rows if row.name != ORACLE]
        next_best = f"; {self._against(winner, others[0])}, the next" if others else ""
        sentences = [f"Lowest loss: {winner.name}, {self.mean(winner)} nats per token{next_best}."]
        best = next((row for row in (winner, *others) if row.kind == "mixture"), None)
        peers = [row for row in (self._best_expert(), self._find(DENSE), self._find(ORACLE)) if row is not None]
        if best is not None and peers:
            compared = "; ".join(self._against(best, row) for row in peers)
            sentences.append(f"Best sparse mixture: {best.name}, {compared}.")
        return " ".join(sentences)

    def _best_expert(self) -> Row | None:
        experts = [row for row in self.sorted().rows if row.kind == "expert"]
        return experts[0] if experts else None

    def _find(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def _against(self, row: Row, other: Row) -> str:
        difference = self.difference(other, row)
        if not difference.excludes_zero:
            return f"level with {other.name} ({difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])"
        word = "below" if difference.value > 0 else "above"
        low, high = sorted((abs(difference.low), abs(difference.high)))
        return f"{abs(difference.value):.3f} [{low:.3f}, {high:.3f}] {word} {other.name}"

    def to_rich(self, by: SortKey = "loss", *, width: int = 80) -> RenderableType:
        """The table for a terminal: one where it fits into ``width`` columns, losses and costs apart where not."""
        title = "Loss in nats per token (95% interval over documents)"
        name, losses, costs = _COLUMNS[:1], ("mean", *self.domains), _COLUMNS[2:]
        if width >= _WIDE:
            return self._grid(by, title, (*name, *losses, *costs))
        return Group(self._grid(by, title, (*name, *losses)), self._grid(by, "Cost", (*name, *costs)))

    def _grid(self, by: SortKey, title: str, columns: Sequence[str]) -> Table:
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
        for column in columns:
            is_name = column == _COLUMNS[0]
            table.add_column(column, justify="left" if is_name else "right", no_wrap=not is_name)
        styles = {"mixture": "bold", "reference": "dim"}
        for row in self.sorted(by).rows:
            cells = self._cells(row)
            table.add_row(*(cells[column] for column in columns), style=styles.get(row.kind))
        return table

    def to_markdown(self, by: SortKey = "loss") -> str:
        """The table for a README."""
        header = [*_COLUMNS[:2], *self.domains, *_COLUMNS[2:]]
        lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
        for row in self.sorted(by).rows:
            cells = self._cells(row)
            lines.append("| " + " | ".join(cells[column] for column in header) + " |")
        return "\n".join(lines) + "\n"

    def to_csv(self, by: SortKey = "loss") -> str:
        """The table for a spreadsheet: full figures, an interval in three columns."""
        output = io.StringIO()
        writer = csv.writer(output, lineterminator="\n")
        columns = ["mean", *self.domains, "bits_per_byte"]
        costs = ["total_parameters", "active_parameters", "tokens_per_second", "training_tokens"]
        spread = [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
        writer.writerow(["name", "kind", *spread, *costs])
        for row in self.sorted(by).rows:
            intervals = [
                self.mean(row),
                *(self.domain(row, name) for name in self.domains),
                self.mean(row, "bits_per_byte"),
            ]
            figures = [figure for interval in intervals for figure in (interval.value, interval.low, interval.high)]
            writer.writerow([row.name, row.kind, *figures, *(getattr(row, cost) for cost in costs)])
        return output.getvalue()

    def to_json(self) -> str:
        """The table with every document's scores, to be read back by :meth:`from_json`."""
        rows = [
            {**asdict(row), "scores": {domain: scores.to_json() for domain, scores in row.scores.items()}}
            for row in self.rows
        ]
        return json.dumps({"domains": self.domains, "bootstrap": asdict(self.bootstrap), "rows": rows})

    @classmethod
    def from_json(cls, text: str) -> ArenaTable:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(
            tuple(_read_row(row) for row in values["rows"]), tuple(values["domains"]), Bootstrap(**values["bootstrap"])
        )

    def __str__(self) -> str:
        return self.to_markdown()

    def _cells(self, row: Row) -> dict[str, str]:
        """What the table shows of a row, by column."""
        return {
            "way of combining": row.name,
            "mean": str(self.mean(row)),
            **{domain: f"{row.scores[domain].nats_per_token:.3f}" for domain in self.domains},
            "bits/byte": f"{self.mean(row, 'bits_per_byte').value:.3f}",
            "total": _count(row.total_parameters),
            "active": _count(row.active_parameters),
            "tokens/s": _count(row.tokens_per_second),
            "trained on": _count(row.training_tokens),
        }


def oracle_row(experts: Sequence[Row], domains: Sequence[str]) -> Row:
    """The row that always asks the domain's own expert: what a router that makes no mistake would reach.

    Args:
        experts: The experts' rows, in the order of the domains.
        domains: The domains.
    """
    scores = {domain: expert.scores[domain] for domain, expert in zip(domains, experts, strict=True)}
    total = sum(expert.total_parameters for expert in experts)
    first = experts[0]
    return Row(ORACLE, "reference", scores, total, first.active_parameters, None, first.training_tokens)


def _read_row(values: dict[str, Any]) -> Row:
    scores = {domain: DocumentScores.from_json(scores) for domain, scores in values["scores"].items()}
    return Row(**(values | {"scores": scores}))


def _count(number: float | None) -> str:
    """A count with three digits.

    Example:
        >>> [_count(number) for number in (950, 12_345, 1_770_000, 2.5e9, None)]
        ['950', '12.3k', '1.77M', '2.5B', '–']
    """
    if number is None:
        return "–"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
