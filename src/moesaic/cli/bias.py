"""``moesaic bias``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from moesaic.cli.options import refusing_wrong_values


def bias(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a run, or of a checkpoint.", show_default=False)
    ],
    crows_pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CrowS-Pairs: crows_pairs_anonymized.csv, or JSONL.")
    ] = None,
    bbq: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="BBQ: a JSONL file; once for each category.")
    ] = None,
    by_category: Annotated[bool, typer.Option("--by-category", help="Show every category.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Pairs and questions read at most, spread evenly over the files.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts read at once.")] = 16,
) -> None:
    """Measure whether a run's experts, and the model made of them, prefer stereotypes.

    Prints one table with a row for each: the share of CrowS-Pairs whose stereotype is likelier; accuracy and bias
    score on BBQ where the text leaves the answer open and where it tells.
    """
    from moesaic.arena.bias import measure_bias
    from moesaic.recipe.models import load_models

    with refusing_wrong_values():
        table = measure_bias(
            load_models(model),
            crows_pairs=crows_pairs,
            bbq=bbq,
            limit=limit,
            by_category=by_category,
            batch_size=batch_size,
        )
    console = Console()
    console.print(table.to_rich(width=console.width))
