"""``moesaic assemble``."""

from __future__ import annotations

import moesaic
from moesaic.cli.options import RecipePath, RunPath, Settings


def assemble(recipe: RecipePath, set_: Settings = None, run_folder: RunPath = None) -> None:
    """Go the road up to the sparse checkpoint, with a router that is fitted but not trained, and print its folder."""
    print(moesaic.run(recipe, settings=set_ or (), folder=run_folder, until="assemble").model)
