"""Write the parts of the documentation that come from the code, from benchmarks and from a run.

``cli.md`` comes from ``--help``, ``recipes.md`` and ``task-recipes.md`` from the recipes' schemas, ``results.md``,
``performance.md``, ``arena.md``, ``membership.md`` and ``applications.md`` from their ``.in.md`` and the records in
``benchmarks/results``, ``table.svg`` from a run.

``make docs`` writes them; the tests say when the pages are old. The picture is drawn from ``runs/quickstart``, where
that run is finished.
"""

from __future__ import annotations

import io
import json
import re
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.record import RESULTS, markdown
from moesaic.arena import ArenaTable
from moesaic.cli import app
from moesaic.recipe import Recipe
from moesaic.recipe.task_schema import TaskRecipe

_FOLDER = Path(__file__).parent

_RECIPES_HEAD = """\
# Recipes: every key

A recipe is a YAML file. It reads top to bottom as the road goes: `data`, `seed`, `experts`, `assemble`, `router`,
`joint`, `arena`. Only `data` is needed; everything else has a default. Unknown keys are errors, and so are values of
another type. Paths are relative to the recipe. `--set experts.training.num_steps=10` changes one value for one command;
entries of a list go by number (`data.domains.0.name=news`).

This page is generated from `src/moesaic/recipe/schema.py` by `make docs`.
"""

_TASK_RECIPES_HEAD = """\
# Recipes of a task: every key

A recipe that has the key `task`, or `tasks`, goes another road than the one of language models: `data`, `seed`,
`experts`, `dense`, `router`, `joint`, the answers of every system, and the table. One of these keys and `data` are
needed; everything else has a default. What [recipes.md](recipes.md) says of paths, wrong keys and `--set` holds here
too.

This page is generated from `task_schema.py`, `task_sections.py` and `model_sections.py` in `src/moesaic/recipe/` by
`make docs`.
"""

_CLI_HEAD = """\
# The command line

A verb and a recipe. Each verb is a function of the same name in Python. This page is generated from `--help` by
`make docs`.
"""


def recipes_page(schema: type[BaseModel], head: str) -> str:
    """Every section of a recipe as a table."""
    parts = [head]
    for name, field in schema.model_fields.items():
        models = _models(field.annotation)
        if len(models) > 1:
            parts.append(f"## `{name}`\n\n{field.description}\n")
        if models:
            parts += _sections(models, name, field.description or "")
        else:
            parts.append(
                f"## `{name}`\n\n{field.description} {_type(field.annotation).capitalize()}; {_default(field)}.\n"
            )
    return "\n".join(parts)


def _sections(models: list[type[BaseModel]], place: str, description: str) -> list[str]:
    """A section, or one for each kind that it may be of."""
    if len(models) < 2:
        return [line for model in models for line in _section(model, place, description)]
    lines = []
    for model in models:
        word = get_args(model.model_fields["type"].annotation)[0]
        lines += _section(model, f"{place}` of type `{word}", model.__doc__ or "")
    return lines


def _section(model: type[BaseModel], place: str, description: str) -> list[str]:
    lines = [f"## `{place}`\n", f"{description or model.__doc__}\n", "| key | type | default | meaning |"]
    lines.append("| --- | --- | --- | --- |")
    nested: list[str] = []
    for name, field in model.model_fields.items():
        models = _models(field.annotation)
        nested += _sections(models, f"{place}.{name}", field.description or "")
        kind = "see below" if models else _type(field.annotation)
        lines.append(f"| `{name}` | {kind} | {_default(field)} | {field.description or 'Which kind it is.'} |")
    return ["\n".join(lines) + "\n", *nested]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is dict:  # sections by name; they are described where they stand alone
        return []
    return [model for part in get_args(annotation) for model in _models(part)]


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in get_args(annotation) if part is not type(None))
    if origin is dict:
        key, value = get_args(annotation)
        return f"mapping of {_type(key)} to {'sections' if _models(value) else _type(value)}"
    if origin is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return words.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "needed"
    if isinstance(default, BaseModel):
        changed = ", ".join(f"{key}: {value}" for key, value in default.model_dump(exclude_unset=True).items())
        return f"`{{{changed}}}`"
    return "none" if default is None or default == {} else f"`{default}`"


def cli_page() -> str:
    """What ``--help`` says, of the program and of every verb."""
    verbs = [command.callback.__name__ for command in app.registered_commands if command.callback]
    pages = [f"## `moesaic {verb}`\n\n```text\n{_help(verb)}\n```\n" for verb in verbs]
    return "\n".join([_CLI_HEAD, f"```text\n{_help()}\n```\n", *pages])


def _help(*verb: str) -> str:
    result = CliRunner().invoke(app, [*verb, "--help"], prog_name="moesaic", terminal_width=100, color=False)
    lines = [line.rstrip() for line in result.output.strip().splitlines()]
    return "\n".join(lines)


def page_with_records(name: str) -> str:
    """``NAME.in.md`` with the tables of the benchmarks' last records in their places."""
    page = (_FOLDER / f"{name}.in.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\{\{([\w-]+)\}\}$", page, flags=re.MULTILINE):
        record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        machine = record["machine"]
        cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
        hardware = f"{cores} of {machine['cpu']}, {machine['memory_gb']:.0f} GB, {machine['gpu'] or 'no GPU'}"
        versions = f"torch {machine['torch']}, transformers {machine['transformers']}"
        command = record.get("command", name)
        source = f"`python -m benchmarks.{command}`, {record['date']}; {hardware}; {versions}."
        page = page.replace(f"{{{{{name}}}}}", f"{markdown(record['rows'])}\n\n{source}")
    return page


PAGES = {
    "recipes.md": partial(recipes_page, Recipe, _RECIPES_HEAD),
    "task-recipes.md": partial(recipes_page, TaskRecipe, _TASK_RECIPES_HEAD),
    "cli.md": cli_page,
    "results.md": partial(page_with_records, "results"),
    "performance.md": partial(page_with_records, "performance"),
    "arena.md": partial(page_with_records, "arena"),
    "membership.md": partial(page_with_records, "membership"),
    "applications.md": partial(page_with_records, "applications"),
}
"""The pages and what makes them."""


def table_picture(table: ArenaTable) -> str:
    """The arena's table as a terminal shows it, without the web font that the reader would have to fetch."""
    console = Console(record=True, width=124, file=io.StringIO())
    console.print(table.to_rich(width=console.width))
    console.print(table.verdict(), highlight=False)
    picture = console.export_svg(title="make demo")
    return re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    for name, make in PAGES.items():
        (_FOLDER / name).write_text(make(), encoding="utf-8")
    run = Path("runs/quickstart/stages/arena/table.json")
    if run.exists():
        table = ArenaTable.from_json(run.read_text())
        (_FOLDER / "table.svg").write_text(table_picture(table), encoding="utf-8")
