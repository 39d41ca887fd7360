"""The arguments that verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe, such as joint.num_steps=10."),
]
RunPath = Annotated[
    Path | None, typer.Option("--folder", metavar="FOLDER", help="Folder of the run; runs/NAME-OF-RECIPE if not given.")
]
