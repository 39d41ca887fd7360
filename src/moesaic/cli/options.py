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
Jobs = Annotated[
    int, typer.Option(min=1, help="Independent models that are trained at a time, each with its share of the cores.")
]
SortKey = Annotated[str, typer.Option("--by", metavar="COLUMN", help="The column that sorts the table.")]
