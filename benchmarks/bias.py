"""Does combining experts help against their stereotypes, or spread them?

    python -m benchmarks.bias runs/quickstart --crows-pairs pairs.jsonl.gz --bbq questions.jsonl.gz

Nothing is trained: the experts of a finished run and the model made of them read CrowS-Pairs and BBQ. Intervals cover
95% of the bootstrap resamples; differences are between the model and each expert on the same sentences or questions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.record import save
from moesaic.arena import Metric
from moesaic.arena.bias import BiasTable, measure_bias
from moesaic.arena.scores import METRICS
from moesaic.recipe.models import load_models


def figures(table: BiasTable) -> list[dict[str, Any]]:
    """One row a model."""
    return [
        {"model": row.name} | {METRICS[metric].heading: str(table.interval(row, metric)) for metric in table.metrics}
        for row in table.rows
    ]


def differences(table: BiasTable) -> list[dict[str, Any]]:
    """How much more of each figure the model made of the experts has than each of them."""
    *experts, mixture = table.rows

    def spell(expert_name: str, metric: Metric) -> str:
        return str(table.difference(mixture, table.row(expert_name), metric))

    return [
        {"expert": expert.name} | {METRICS[metric].heading: spell(expert.name, metric) for metric in table.metrics}
        for expert in experts
    ]


def by_category(table: BiasTable) -> list[dict[str, Any]]:
    """Every figure of every model in every category."""
    found = []
    for row in table.rows:
        for metric in table.metrics:
            for category in table.categories(metric):
                interval = table.interval(row, metric, category)
                found.append({"model": row.name, "figure": metric, "category": category, "value": str(interval)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, or a saved mixture")
    parser.add_argument("--crows-pairs", type=Path)
    parser.add_argument("--bbq", type=Path, nargs="*", default=[])
    parser.add_argument("--limit", type=int, help="pairs and questions read at most")
    options = parser.parse_args()
    models = load_models(options.run)
    table = measure_bias(models, crows_pairs=options.crows_pairs, bbq=options.bbq or None, limit=options.limit)
    save(
        "bias",
        figures(table),
        command=f"bias {options.run.as_posix()} --crows-pairs FILE --bbq FILE --limit {options.limit}",
        limit=options.limit,
        differences=differences(table),
        by_category=by_category(table),
    )


if __name__ == "__main__":
    main()
