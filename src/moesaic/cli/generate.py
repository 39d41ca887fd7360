"""``moesaic generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import moesaic
from moesaic.cli.options import refusing_wrong_values


def generate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a run, or of a checkpoint.", show_default=False)
    ],
    prompt: Annotated[str, typer.Argument(help="The text to continue.", show_default=False)],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Number of tokens to add at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Makes the random choices.")] = 0,
) -> None:
    """Continue a text, and say which experts wrote the answer."""
    with refusing_wrong_values():
        print(moesaic.generate(model, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
