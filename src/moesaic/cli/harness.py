"""``moesaic harness``."""

from __future__ import annotations

from typing import Annotated

import typer


def harness(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="ARGUMENTS...", help="What lm_eval takes; give them after --.", show_default=False),
    ],
) -> None:
    """Measure a model on tasks of the language-model evaluation harness.

    This is lm_eval's own command with one more model, for instance: moesaic harness -- --model moesaic --model_args
    path=runs/news --tasks hellaswag. The path is that of a run or a checkpoint. Needs moesaic[lm-eval].
    """
    try:
        from moesaic.arena.harness import run_harness
    except ModuleNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    run_harness(arguments)
