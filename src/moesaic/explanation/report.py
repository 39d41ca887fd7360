"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from moesaic.arena import ArenaTable
from moesaic.arena.expert_matrix import expert_matrix
from moesaic.explanation.routing_map import RoutingMap

_MAX_POINTS = 200
"""Points of a loss curve that are drawn; longer histories are averaged in stretches."""


def write_report(
    path: Path,
    *,
    title: str,
    table: ArenaTable,
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    routing_map: RoutingMap | None,
    recipe: str,
    versions: Mapping[str, str],
) -> None:
    """Write the page: the table, the expert matrix, loss curves, routing maps, the recipe.

    Everything is in the one file, and nothing is fetched when it is opened.

    Args:
        path: The file.
        title: Its headline.
        table: The arena's table.
        histories: The records of every training stage.
        routing_map: What the routers do; ``None`` if there is no sparse mixture.
        recipe: The recipe, verbatim.
        versions: What the run was made with.
    """
    page = files("moesaic.explanation") / "page"
    facts = {
        "title": title,
        "verdict": table.verdict(),
        "domains": table.domains,
        "rows": [_row(table, row) for row in table.sorted().rows],
        "matrix": _matrix(table),
        "curves": {stage: _curve(records) for stage, records in histories.items()},
        "routing": None if routing_map is None else routing_map.to_json() | {"warnings": routing_map.warnings()},
        "recipe": recipe,
        "versions": dict(versions),
    }
    # "<" is spelled out, so that no text in the data can end the script element it stands in.
    data = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c")
    html = (page / "report.html").read_text(encoding="utf-8")
    for marker, content in {
        "/*STYLE*/": (page / "report.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": (page / "report.js").read_text(encoding="utf-8"),
        "/*DATA*/": data,
    }.items():
        html = html.replace(marker, content)
    path.write_text(html, encoding="utf-8")


def _row(table: ArenaTable, row: Any) -> dict[str, Any]:
    mean = table.mean(row)
    return {
        "name": row.name,
        "kind": row.kind,
        "mean": [mean.value, mean.low, mean.high],
        "domains": [row.scores[domain].nats_per_token for domain in table.domains],
        "bits_per_byte": table.mean(row, "bits_per_byte").value,
        "total_parameters": row.total_parameters,
        "active_parameters": row.active_parameters,
        "tokens_per_second": row.tokens_per_second,
        "training_tokens": row.training_tokens,
    }


def _matrix(table: ArenaTable) -> list[dict[str, Any]] | None:
    """Every expert on every domain, and the ways to choose among them; ``None`` if no expert was measured."""
    if table.best_member is None:
        return None
    return [
        {
            "name": name,
            "kind": row.kind,
            "domains": [row.scores[domain].value(table.metric) for domain in table.domains],
        }
        for name, row in expert_matrix(table).rows.items()
    ]


def _curve(records: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Pairs of tokens read and loss in nats, at most ``_MAX_POINTS``, each the mean of a stretch of steps."""
    stretch = -(-len(records) // _MAX_POINTS)
    curve = []
    for start in range(0, len(records), stretch or 1):
        part = records[start : start + stretch]
        losses = [record["parts"].get("nats", record["loss"]) for record in part]
        curve.append([part[-1]["num_tokens"], sum(losses) / len(losses)])
    return curve
