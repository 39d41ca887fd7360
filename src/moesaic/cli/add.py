"""``moesaic add``."""

from __future__ import annotations

from typing import Annotated

import typer

import moesaic
from moesaic.cli.options import (
    TEXT,
    ExpertPath,
    MixturePath,
    OutputPath,
    RouterOption,
    refusing_wrong_values,
    text_paths,
)


def add(
    mixture: MixturePath,
    expert: ExpertPath,
    text: Annotated[list[str], TEXT],
    output: OutputPath = None,
    name: Annotated[
        str | None, typer.Option(help="What the new expert is called; its folder's name if not given.")
    ] = None,
    router: RouterOption = "keep",
    caution: Annotated[
        float, typer.Option(help="How many times as much the other experts' texts count where the new row is fitted.")
    ] = 1.0,
) -> None:
    """Give a sparse checkpoint one more expert, from a dense one.

    Prints the checkpoint's folder.
    """
    with refusing_wrong_values():
        print(
            moesaic.add_expert(
                mixture, expert, output, name=name, texts=text_paths(text), router=router, caution=caution
            )
        )
