"""``moesaic generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import moesaic
from moesaic.cli.options import named_values, refusing_wrong_values


def generate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a run, or of a checkpoint.", show_default=False)
    ],
    prompt: Annotated[
        str, typer.Argument(help="The text to continue, or to do the model's task on.", show_default=False)
    ],
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Another field of a task's row, such as target_lang=de."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Which task to do, by its name in the recipe; where a model does several.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Number of tokens to add at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams that a model of a task searches which writes.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Makes the random choices.")] = 0,
) -> None:
    """Continue a text, or do on it what a run's models were trained for, and say which experts gave the answer."""
    with refusing_wrong_values():
        answer = moesaic.generate(
            model,
            prompt,
            fields=named_values(field or (), "--field"),
            task=task,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            num_beams=num_beams,
            seed=seed,
        )
        print(answer)
