"""The table of a task's run, as records for the documentation.

    python -m benchmarks.task recipes/translation.yaml
    python -m benchmarks.task recipes/translation.yaml --expert en-de
    python -m benchmarks.task recipes/question-answering.yaml --name pretrained --set model.encoder=FOLDER

Does what ``moesaic run`` does, and a run that is finished is only read. One record a metric, one of the costs and one
of the router; all figures with their intervals are beside them as CSV. With ``--expert``, one domain's expert is
trained and nothing else, and measured on its own domain. ``--name`` keeps the records of a changed recipe apart.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.record import RESULTS, save
from moesaic import run
from moesaic.arena.grid import NAME
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.load import load_recipe
from moesaic.recipe.task_work import TaskWork


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="A recipe that names a task.")
    parser.add_argument("--run", type=Path, help="The run's folder; runs/NAME-OF-RECIPE if not given.")
    parser.add_argument("--name", help="Goes into the names of the records and of the run, after the recipe's.")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="Change one value of the recipe.")
    parser.add_argument("--expert", metavar="DOMAIN", help="Measure this domain's expert alone.")
    arguments = parser.parse_args()
    stem = "-".join(filter(None, (arguments.recipe.stem, arguments.name)))
    place, name = arguments.run or Path("runs") / stem, _slug(stem)
    command = f"task {arguments.recipe.as_posix()}"
    command += f" --name {arguments.name}" if arguments.name else ""
    command += "".join(f" --set {setting}" for setting in arguments.settings)
    if arguments.expert is None:
        save_table(arguments.recipe, arguments.settings, place, name, command)
    else:
        save_expert(arguments.recipe, arguments.settings, place, arguments.expert, name, command)


def save_table(recipe: Path, settings: list[str], place: Path, record: str, command: str) -> None:
    table = run(recipe, settings=settings, folder=place).task_table
    grid = table.grid()
    facts: dict[str, Any] = {
        "command": command,
        "verdict": table.verdict(),
        "signatures": dict(table.signatures),
        "baselines": dict(table.baselines),
    }
    for section in grid.sections:
        cells = zip(*(column.cells for column in section.columns), strict=True)
        headings = [column.heading for column in section.columns]
        rows = [dict(zip(headings, row, strict=True)) for row in cells]
        rows = [{NAME: name} | row for name, row in zip(grid.names, rows, strict=True)]
        save(f"{record}_{_slug(section.title)}", rows, **facts)
    router = [
        {"sources of": domain} | {name: f"{table.confusion[domain][name]:.1%}" for name in table.domains}
        for domain in table.domains
    ]
    save(f"{record}_router", router, **facts)
    (RESULTS / f"{record}.csv").write_text(table.to_csv(), encoding="utf-8")


def save_expert(recipe: Path, settings: list[str], place: Path, domain: str, record: str, command: str) -> None:
    name = f"expert {domain}"
    run(recipe, settings=settings, folder=place, until=f"answers: {name}")
    work = TaskWork(load_recipe(recipe, settings), RunFolder(place), Console(quiet=True))
    texts = {name: work.answered(name)["texts"][domain]}
    measured = work.tasks.compare(work.recipe.task_of(domain), texts, work.pairs(domain))[name]
    rows = [
        {"metric": metric, "value": f"{found.value:.2f}", "95% interval": f"{found.low:.2f} to {found.high:.2f}"}
        for metric, found in measured.items()
    ]
    save(f"{record}_expert_{_slug(domain)}", rows, command=f"{command} --expert {domain}", title=name)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


if __name__ == "__main__":
    main()
