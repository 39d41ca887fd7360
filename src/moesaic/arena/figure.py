"""The arena's picture: quality against active parameters, and the rows that no other beats at both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from moesaic.arena.quantities import count
from moesaic.arena.rows import ORACLE, Kind, Row
from moesaic.arena.scores import METRICS
from moesaic.arena.seeds import SeedTable
from moesaic.arena.table import ArenaTable

_STYLES: dict[Kind, tuple[str, str]] = {
    "expert": ("#0072B2", "o"),
    "reference": ("#7F7F7F", "s"),
    "ensemble": ("#D55E00", "^"),
    "mixture": ("#009E73", "D"),
}
"""Color and marker of every kind; the colors are Okabe and Ito's, which color-blind people tell apart."""


_STEP = 0.022
"""Distance between rows with as many parameters, as a share of the axis."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other beats: less of both coordinates is better.

    Args:
        points: Cost and loss of every point.

    Returns:
        Their positions, the cheapest first. Of points that are the same, the first.

    Example:
        >>> pareto_front([(1, 5), (2, 3), (2, 4), (3, 3)])
        [0, 1]
    """
    front: list[int] = []
    for number in sorted(range(len(points)), key=lambda number: (*points[number], number)):
        if not front or points[number][1] < points[front[-1]][1]:
            front.append(number)
    return front


def draw_front(table: ArenaTable | SeedTable) -> Figure:
    """Draw every row's quality against its active parameters, and the Pareto front of those that can be run.

    Bars are 95% intervals of one table, and go from the least to the most of several seeds. Points are numbered, the
    best first; the names stand beside the picture.

    Args:
        table: One table, or several seeds' tables.
    """
    rows = sorted(table.rows, key=lambda row: _loss(table, row))
    figure = Figure(figsize=(10, max(4.5, 0.24 * len(rows) + 1.4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes, names = figure.subplots(1, 2, width_ratios=(3, 1.25))
    _label_axes(axes, table)
    _draw_points(axes, table, rows)
    _draw_line(axes, table, rows)
    _add_legend(axes, rows)
    _list_names(names, table, rows)
    return figure


def save_front(table: ArenaTable | SeedTable, path: Path) -> None:
    """Write the picture; the same table gives the same bytes.

    Args:
        table: One table, or several seeds' tables.
        path: A file that ends in ``.png`` or ``.svg``.

    Raises:
        ValueError: If it ends in something else.
    """
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path}: a picture of the arena ends in .png or .svg.")
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "moesaic"}):
        draw_front(table).savefig(path, dpi=150, metadata=metadata)


def _loss(table: ArenaTable | SeedTable, row: Row) -> float:
    """The main metric, the less the better."""
    value = table.mean(row).value
    return value if METRICS[table.metric].lower_is_better else -value


def _places(rows: Sequence[Row]) -> list[float]:
    """Where rows stand from left to right: the best of those with as many parameters there, the others beside it."""
    logs = [math.log10(row.active_parameters) for row in rows]
    step = _STEP * max(max(logs) - min(logs), 0.3)
    places: list[float] = []
    for number, log in enumerate(logs):
        rank = sum(abs(log - before) < step for before in logs[:number])
        places.append(10 ** (log + rank * step))
    return places


def _draw_points(axes: Axes, table: ArenaTable | SeedTable, rows: Sequence[Row]) -> None:
    for number, (row, place) in enumerate(zip(rows, _places(rows), strict=True), start=1):
        figure = table.mean(row)
        color, marker = _STYLES[row.kind]
        axes.plot([place, place], [figure.low, figure.high], color=color, alpha=0.4, linewidth=1.2, zorder=2)
        face = "white" if row.name == ORACLE else color
        axes.plot(place, figure.value, marker, color=color, markerfacecolor=face, markersize=6, zorder=3)
        axes.annotate(
            str(number),
            (place, figure.value),
            xytext=(3, 4) if number % 2 else (3, -10),  # neighbours' numbers do not run into each other
            textcoords="offset points",
            fontsize=7.5,
            zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def _front(table: ArenaTable | SeedTable, rows: Sequence[Row]) -> list[Row]:
    """The rows on the Pareto front; the oracle knows what no model knows."""
    runnable = [row for row in rows if row.name != ORACLE]
    points = [(float(row.active_parameters), _loss(table, row)) for row in runnable]
    return [runnable[number] for number in pareto_front(points)]


def _draw_line(axes: Axes, table: ArenaTable | SeedTable, rows: Sequence[Row]) -> None:
    front = _front(table, rows)
    end = axes.get_xlim()[1]
    costs = [row.active_parameters for row in front] + [end]
    values = [table.mean(row).value for row in front]
    axes.step(costs, [*values, values[-1]], where="post", color="black", linewidth=1, alpha=0.6, zorder=1)


def _label_axes(axes: Axes, table: ArenaTable | SeedTable) -> None:
    direction = "lower" if METRICS[table.metric].lower_is_better else "higher"
    axes.set_ylabel(f"{table.scores.task} ({direction} is better)")
    axes.set_xlabel("Active parameters; rows with as many stand side by side, the best leftmost")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = sorted({row.active_parameters for row in table.rows})
    axes.set_xticks(_apart(ticks))
    axes.minorticks_off()
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _apart(ticks: Sequence[int]) -> list[int]:
    """Numbers of parameters whose labels do not run into each other."""
    kept: list[int] = []
    room = 0.07 * max(math.log10(ticks[-1] / ticks[0]), 0.3)
    for tick in ticks:
        if not kept or math.log10(tick / kept[-1]) > room:
            kept.append(tick)
    return kept


def _add_legend(axes: Axes, rows: Sequence[Row]) -> None:
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=kind)
        for kind, (color, marker) in _STYLES.items()
        if any(row.kind == kind for row in rows)
    ]
    line = Line2D([], [], color="black", linewidth=1, alpha=0.6, label="Pareto front")
    axes.legend(handles=[*handles, line], fontsize=8, frameon=False, loc="best")


def _list_names(axes: Axes, table: ArenaTable | SeedTable, rows: Sequence[Row]) -> None:
    """The names by their numbers, those on the front in bold, and what the markers mean."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) + 0.5, -0.5)
    front = _front(table, rows)
    for number, row in enumerate(rows, start=1):
        color, marker = _STYLES[row.kind]
        face = "white" if row.name == ORACLE else color
        axes.plot(0.09, number, marker, color=color, markerfacecolor=face, markersize=5, clip_on=False)
        axes.text(0.06, number, str(number), fontsize=8, ha="right", va="center")
        weight = "bold" if row in front else "normal"
        axes.text(0.13, number, row.name, fontsize=8, va="center", fontweight=weight)
