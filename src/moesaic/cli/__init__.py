"""The command line: a verb and a recipe; one file a verb."""

from __future__ import annotations

import sys

import typer

from moesaic.cli import (
    add,
    arena,
    assemble,
    bias,
    chat,
    check,
    evaluate,
    export,
    generate,
    harness,
    remove,
    replace,
    run,
)
from moesaic.errors import MoesaicError

app = typer.Typer(
    name="moesaic",
    help="Make one model out of several: train experts, combine them, compare every way, export the best.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
VERBS = (
    run.run,
    check.check,
    assemble.assemble,
    add.add,
    replace.replace,
    remove.remove,
    evaluate.evaluate,
    arena.arena,
    bias.bias,
    generate.generate,
    chat.chat,
    harness.harness,
    export.export,
)
for verb in VERBS:
    app.command()(verb)


def main() -> None:
    """Run the command line; moesaic's own errors end it with one clear message."""
    try:
        app()
    except MoesaicError as error:
        name = type(error).__name__
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
