"""Cells in sections, drawn the same way for every table: for a terminal, in Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

NAME = "way of combining"

_WIDEST_NAME = 32
"""Columns of a terminal that names get; longer ones go over several lines."""

_STYLES = {"mixture": "bold", "reference": "dim"}


@dataclass(frozen=True)
class GridColumn:
    """A heading and the cells below it."""

    heading: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """Characters of the widest cell, and one between columns."""
        return 1 + max(len(cell) for cell in (self.heading, *self.cells))


@dataclass(frozen=True)
class GridSection:
    """Columns that belong together, under a title."""

    title: str
    columns: tuple[GridColumn, ...]


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn.

    Attributes:
        names: The name of every row.
        kinds: The kind of every row, which decides how it looks in a terminal.
        sections: The columns.
        heading: What stands above the names.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    sections: tuple[GridSection, ...]
    heading: str = NAME

    def to_rich(self, width: int) -> RenderableType:
        """As few tables as ``width`` columns of a terminal allow; no figure is ever cut."""
        return Group(*(self._table(" · ".join(titles), columns) for titles, columns in self._fit(width)))

    def _fit(self, width: int) -> list[tuple[list[str], list[GridColumn]]]:
        """Sections side by side where they fit, else below each other, and in parts where one alone is too wide."""
        room = width - min(_WIDEST_NAME, GridColumn(self.heading, self.names).width) - 1
        parts: list[tuple[list[str], list[GridColumn]]] = []
        left = 0
        for section in self.sections:
            if not parts or left < sum(column.width for column in section.columns):
                parts.append(([], []))
                left = room
            parts[-1][0].append(section.title)
            for column in section.columns:
                if left < column.width and parts[-1][1]:
                    parts.append(([f"{section.title}, continued"], []))
                    left = room
                parts[-1][1].append(column)
                left -= column.width
        return parts

    def _table(self, title: str, columns: Sequence[GridColumn]) -> Table:
        table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
        table.add_column(self.heading, max_width=_WIDEST_NAME)
        for column in columns:
            table.add_column(escape(column.heading), justify="right", no_wrap=True)
        for number, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            cells = (escape(column.cells[number]) for column in columns)
            table.add_row(escape(name), *cells, style=_STYLES.get(kind))
        return table

    def to_markdown(self) -> str:
        """One table a section, each under its title: wide ones cannot be read on a page."""
        parts = []
        for section in self.sections:
            header = [self.heading, *(column.heading for column in section.columns)]
            lines = [_line(header), "| --- |" + " ---: |" * (len(header) - 1)]
            lines += [
                _line([name, *(column.cells[number] for column in section.columns)])
                for number, name in enumerate(self.names)
            ]
            parts.append(f"**{section.title}**\n\n" + "\n".join(lines) + "\n")
        return "\n".join(parts)


class Gridded(ABC):
    """A table that is shown as a grid."""

    @abstractmethod
    def grid(self, by: str = "mean") -> Grid:
        """The cells that a terminal and a page show.

        Args:
            by: The key of the column that rows are sorted by.
        """

    def to_rich(self, by: str = "mean", *, width: int = 80) -> RenderableType:
        """The table for a terminal: one where it fits into ``width`` columns, several where not."""
        return self.grid(by).to_rich(width)

    def to_markdown(self, by: str = "mean") -> str:
        """The table for a page, in sections: quality, calibration and diversity, cost."""
        return self.grid(by).to_markdown()

    def __str__(self) -> str:
        return self.to_markdown()


class Named(Protocol):
    """A row that has a name."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


_Named = TypeVar("_Named", bound=Named)


def row_called(name: str, rows: Sequence[_Named]) -> _Named:
    """The row of that name.

    Raises:
        KeyError: If there is none.
    """
    for row in rows:
        if row.name == name:
            return row
    raise KeyError(f"The table has no row {name!r}; it has {', '.join(row.name for row in rows)}.")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def write_csv(rows: Iterable[dict[str, object]]) -> str:
    """Rows as CSV, an empty cell where there is no figure."""
    listed = list(rows)
    output = io.StringIO()
    writer = csv.DictWriter(output, fieldnames=list(listed[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return output.getvalue()
