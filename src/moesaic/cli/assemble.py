"""``moesaic assemble``."""

from __future__ import annotations

import moesaic
from moesaic.cli.options import RecipePath, RunPath, Settings


def assemble(recipe: RecipePath, set_: Settings = None, folder: RunPath = None) -> None:
    """Make one sparse checkpoint of a recipe's experts.

    Goes the road up to there. The router is fitted, but not trained. Prints the checkpoint's folder.
    """
    print(moesaic.run(recipe, settings=set_ or (), folder=folder, until="assemble").model)
