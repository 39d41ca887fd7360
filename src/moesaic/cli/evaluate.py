"""``moesaic evaluate``."""

from __future__ import annotations

from rich.console import Console

import moesaic
from moesaic.cli.options import Jobs, RecipePath, RunPath, Settings, SortKey


def evaluate(
    recipe: RecipePath,
    set_: Settings = None,
    folder: RunPath = None,
    jobs: Jobs = 1,
    by: SortKey = "mean",
) -> None:
    """Compare every way of combining a recipe's experts.

    Goes the road up to the arena. Prints the table, sorted, and says in a sentence what won and by how much.
    """
    table = moesaic.run(recipe, settings=set_ or (), folder=folder, until="arena", jobs=jobs).table
    console = Console()
    console.print(table.to_rich(by, width=console.width))
    console.print(table.verdict(), highlight=False)
