"""``moesaic run``."""

from __future__ import annotations

import moesaic
from moesaic.cli.options import Jobs, RecipePath, RunPath, Settings


def run(recipe: RecipePath, set_: Settings = None, folder: RunPath = None, jobs: Jobs = 1) -> None:
    """Go the whole road of a recipe, from text to table, page and model.

    The stages are data, seed, experts, assemble, router, joint, arena, export and report. A run that was stopped
    continues; a run that is done says so; a changed recipe does again what depends on the change.
    """
    moesaic.run(recipe, settings=set_ or (), folder=folder, jobs=jobs)
