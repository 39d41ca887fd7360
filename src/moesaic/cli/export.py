"""``moesaic export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import moesaic


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)],
    output: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to write; must not exist.", show_default=False)
    ],
) -> None:
    """Copy a finished run's model to a folder of its own.

    The copy is checked to load with plain Transformers and to give the same logits.
    """
    print(moesaic.export(run_folder, output))
