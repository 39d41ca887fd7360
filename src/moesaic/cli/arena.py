"""``moesaic arena``."""

from __future__ import annotations

from rich.console import Console

from moesaic.cli.options import Jobs, RecipePath, RunPath, Settings, SortKey
from moesaic.recipe import compare


def arena(
    recipe: RecipePath, set_: Settings = None, folder: RunPath = None, jobs: Jobs = 1, by: SortKey = "mean"
) -> None:
    """Measure any list of ways to combine models.

    The recipe's arena.combinations says which; all have the same data and budget. Trains what they are made of and
    nothing else. Prints the table and writes it as Markdown, CSV, JSON and a figure into the run's folder.
    """
    comparison = compare(recipe, settings=set_ or (), folder=folder, jobs=jobs)
    console = Console()
    console.print(comparison.table.to_rich(by, width=console.width))
    console.print(f"Written: {comparison.folder}/arena.md, .csv, .json, .svg", highlight=False)
