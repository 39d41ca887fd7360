"""``moesaic evaluate``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

import moesaic
from moesaic.cli.options import RecipePath, RunPath, Settings


def evaluate(
    recipe: RecipePath,
    set_: Settings = None,
    folder: RunPath = None,
    by: Annotated[
        Literal["loss", "active_parameters", "tokens_per_second", "training_tokens"],
        typer.Option(help="The column that sorts the table."),
    ] = "loss",
) -> None:
    """Compare every way of combining a recipe's experts.

    Goes the road up to the arena. Prints the table, sorted, and says in a sentence what won and by how much.
    """
    table = moesaic.run(recipe, settings=set_ or (), folder=folder, until="arena").table
    console = Console()
    console.print(table.to_rich(by, width=console.width))
    console.print(table.verdict(), highlight=False)
