"""``moesaic check``."""

from __future__ import annotations

import typer

import moesaic
from moesaic.cli.options import RecipePath, Settings


def check(recipe: RecipePath, set_: Settings = None) -> None:
    """Say what a recipe will need, and all that is wrong with it.

    Counts parameters, memory, disk and time before any work is done; the time comes from a few training steps.
    """
    plan = moesaic.check(recipe, settings=set_ or ())
    print(plan)
    if plan.problems:
        raise typer.Exit(1)
