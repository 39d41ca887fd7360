"""``moesaic chat``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

import moesaic
from moesaic.cli.options import named_values, refusing_wrong_values


def chat(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a run of the task chat.", show_default=False)
    ],
    field: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another field of a row, such as system=TEXT.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Number of tokens of an answer at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Likeliest tokens that are drawn from; 0 draws from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Tokens are drawn from that have this probability together.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Makes the random choices.")] = 0,
) -> None:
    """Talk with a run's models: a line of standard input is a turn, and every answer says which experts gave it."""
    with refusing_wrong_values():
        for answer in moesaic.chat(
            model,
            _turns(),
            fields=named_values(field or (), "--field"),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        ):
            print(answer, flush=True)


def _turns() -> Iterator[str]:
    """What a person says, asked for where one sits at the terminal; empty lines are no turns."""
    if sys.stdin.isatty():
        print("Say something; Ctrl-D ends the conversation.")
    yield from (line.strip() for line in sys.stdin if line.strip())
