"""The arguments that verbs share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

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

MixturePath = Annotated[
    str, typer.Argument(metavar="MIXTURE", help="A sparse checkpoint that moesaic assembled.", show_default=False)
]
ExpertName = Annotated[str, typer.Argument(metavar="NAME", help="One of its experts.", show_default=False)]
ExpertPath = Annotated[
    str, typer.Argument(metavar="EXPERT", help="A dense checkpoint, folder or Hub name.", show_default=False)
]
OutputPath = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where to write; must not exist. Without it, the mixture itself is changed."),
]
TEXT = typer.Option(
    "--text", metavar="NAME=PATH", help="Text of an expert's domain, a JSONL or Parquet file or a folder; one for each."
)
Texts = Annotated[list[str] | None, TEXT]
RouterOption = Annotated[
    Literal["keep", "refit"], typer.Option(help="Keep the router's rows, or fit all of them anew on the texts.")
]


def text_paths(texts: Sequence[str]) -> dict[str, str | Path]:
    """What ``--text`` was given, by name.

    Raises:
        ValueError: If one has no name.
    """
    named = named_values(texts, "--text", metavar="NAME=PATH", example="news=news.jsonl")
    return {name: Path(path) for name, path in named.items()}


def named_values(
    values: Sequence[str], option: str, *, metavar: str = "NAME=VALUE", example: str = "target_lang=de"
) -> dict[str, str]:
    """What an option was given that may be repeated, by name.

    Raises:
        ValueError: If one has no name, or no value.
    """
    for value in values:
        if not all(value.partition("=")):
            raise ValueError(f"{option} {value}: write {metavar}, for instance {example}.")
    return {name: text for name, _, text in (value.partition("=") for value in values)}


@contextmanager
def refusing_wrong_values() -> Iterator[None]:
    """End the command with one message where a function refuses what it was given."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
