"""The arena's tables over seeds, as records for the documentation.

    python -m benchmarks.arena recipes/arena.yaml
    python -m benchmarks.arena recipes/multidomain.yaml

Does what ``moesaic arena`` does, and a run that is finished is only read. One record a section of the table; all
figures, those of every domain too, are beside them as CSV, and the figure goes to ``docs/``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.record import RESULTS, save
from moesaic import compare
from moesaic.arena.columns import SECTIONS
from moesaic.arena.grid import NAME

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="A recipe with arena.combinations.")
    parser.add_argument("--run", type=Path, help="The run's folder; runs/NAME-OF-RECIPE if not given.")
    parser.add_argument("--jobs", type=int, default=2, help="Models trained at a time.")
    arguments = parser.parse_args()
    made = compare(arguments.recipe, folder=arguments.run, jobs=arguments.jobs)
    stem, grid = arguments.recipe.stem, made.table.grid()
    for word, section in zip(SECTIONS, grid.sections, strict=True):
        cells = zip(*(column.cells for column in section.columns), strict=True)
        headings = [column.heading for column in section.columns]
        save(
            f"{stem}_{word}",
            [{NAME: name} | dict(zip(headings, row, strict=True)) for name, row in zip(grid.names, cells, strict=True)],
            command=f"arena {arguments.recipe.as_posix()}",
            title=section.title,
            verdict=made.table.verdict(),
            recipe=arguments.recipe.read_text(encoding="utf-8"),
        )
    shutil.copy(made.folder / "arena.csv", RESULTS / f"{stem}.csv")
    shutil.copy(made.folder / "arena.svg", DOCS / f"arena-{stem}.svg")


if __name__ == "__main__":
    main()
