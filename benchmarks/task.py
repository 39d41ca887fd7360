"""The table of a task's run, as records for the documentation.

    python -m benchmarks.task recipes/translation.yaml

Does what ``moesaic run`` does, and a run that is finished is only read. One record a metric, one of the costs and one
of the router; all figures with their intervals are beside them as CSV.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from benchmarks.record import RESULTS, save
from moesaic import run
from moesaic.arena.grid import NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="A recipe that names a task.")
    parser.add_argument("--run", type=Path, help="The run's folder; runs/NAME-OF-RECIPE if not given.")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="Change one value of the recipe.")
    arguments = parser.parse_args()
    table = run(arguments.recipe, settings=arguments.settings, folder=arguments.run).task_table
    stem, grid = arguments.recipe.stem, table.grid()
    changed = "".join(f" --set {setting}" for setting in arguments.settings)
    facts = {
        "command": f"task {arguments.recipe.as_posix()}{changed}",
        "verdict": table.verdict(),
        "signatures": dict(table.signatures),
        "baselines": dict(table.baselines),
    }
    for section in grid.sections:
        cells = zip(*(column.cells for column in section.columns), strict=True)
        headings = [column.heading for column in section.columns]
        rows = [
            {NAME: name} | dict(zip(headings, row, strict=True)) for name, row in zip(grid.names, cells, strict=True)
        ]
        save(f"{stem}_{re.sub(r'[^a-z0-9]+', '_', section.title.lower()).strip('_')}", rows, **facts)
    router = [
        {"sources of": domain} | {name: f"{table.confusion[domain][name]:.1%}" for name in table.domains}
        for domain in table.domains
    ]
    save(f"{stem}_router", router, **facts)
    (RESULTS / f"{stem}.csv").write_text(table.to_csv(), encoding="utf-8")


if __name__ == "__main__":
    main()
