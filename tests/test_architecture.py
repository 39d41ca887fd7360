"""Imports point up the tree, never down: whoever reads a folder needs only those before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import moesaic

PACKAGE = Path(moesaic.__file__).parent

ORDER = [
    "errors",
    "types",
    "data",
    "tasks",
    "experts",
    "members",
    "combiners",
    "moe",
    "mixture_cache",
    "mixture",
    "seq2seq_mixture",
    "text_mixture",
    "module_mixture",
    "routed_mixture",
    "multi_task_mixture",
    "answering",
    "training",
    "arena",
    "explanation",
    "formats",
    "planning",
    "recipe",
    "cli",
    "testing",
]


def imports_of(file):
    """Parts of the package that a file imports, late and type-only imports included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            modules = [node.module]
            if node.module == "moesaic":
                modules = [f"moesaic.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            if module.startswith("moesaic."):
                yield module.split(".")[1]


def part_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if part_of(file) not in ("__init__", "__main__")]


def test_every_part_has_its_place():
    assert {part_of(file) for file in FILES} == set(ORDER)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_up_the_tree(file):
    here = ORDER.index(part_of(file))
    allowed = ORDER[: here + 1]
    wrong = [part for part in imports_of(file) if part not in allowed]
    assert not wrong, f"{file.name} imports {wrong}"


def test_nobody_imports_the_command_line_or_the_test_kit():
    users = {part_of(file) for file in FILES for part in imports_of(file) if part in ("cli", "testing")}
    assert users <= {"cli", "testing"}


def test_only_recipes_know_yaml():
    assert {part_of(file) for file in FILES if "import yaml" in file.read_text()} == {"recipe"}


def test_the_public_names_are_those_that_are_promised():
    assert dir(moesaic) == sorted(moesaic.__all__)
    for name in moesaic.__all__:
        assert getattr(moesaic, name) is not None
    with pytest.raises(AttributeError, match=r"^module 'moesaic' has no attribute 'mix'$"):
        moesaic.mix  # noqa: B018 - asking is the point


def test_importing_moesaic_does_not_import_pytorch():
    code = "import moesaic, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_folder_is_called_utils():
    assert not list(PACKAGE.rglob("util*"))
