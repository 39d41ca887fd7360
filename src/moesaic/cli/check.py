"""``moesaic check``."""

from __future__ import annotations

import typer

import moesaic
from moesaic.cli.options import RecipePath, Settings


def check(recipe: RecipePath, set_: Settings = None) -> None:
    """Say what a recipe will need, and all that is wrong with it, before any work: parameters, memory, disk, time."""
    plan = moesaic.check(recipe, settings=set_ or ())
    print(plan)
    if plan.problems:
        raise typer.Exit(1)
