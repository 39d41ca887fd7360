"""Every recipe that we ship goes its whole road, with a few steps and a little text; every script runs."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moesaic
from moesaic.recipe import load_recipe
from moesaic.recipe.task_schema import TaskRecipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = {path: load_recipe(path).recipe for path in sorted(FOLDER.glob("*.yaml"))}
TASK_RECIPES = [path for path, recipe in RECIPES.items() if isinstance(recipe, TaskRecipe)]
LANGUAGE_MODEL_RECIPES = [path for path in RECIPES if path not in TASK_RECIPES]
SCRIPTS = sorted(FOLDER.glob("*.py"))
QUICK = [
    "data.max_megabytes=0.3",
    "data.vocab_size=300",
    "data.sequence_length=32",
    *(f"{stage}.num_steps=2" for stage in ("seed.training", "experts.training", "router", "joint")),
    *(f"{stage}.batch_size=4" for stage in ("seed.training", "experts.training", "router", "joint")),
    "arena.max_tokens=500",
    "arena.num_resamples=20",
    "arena.combinations=road",
]
QUICK_TASK = [
    *(f"{stage}.training.num_steps=2" for stage in ("experts", "router")),
    *(f"{stage}.training.batch_size=4" for stage in ("experts", "router")),
    "arena.max_examples=3",
    "arena.num_resamples=20",
]
QUICK_KIND = {
    "encoder_decoder": [
        "data.vocab_size=400",
        "data.max_target_tokens=8",
        "model.hidden_size=16",
        "experts.num_members=1",
        "joint.num_steps=2",
        "joint.batch_size=4",
        "decoding.num_beams=1",
    ],
    "causal": [
        "data.vocab_size=400",
        "data.max_target_tokens=8",
        "model.hidden_size=16",
        "model.num_layers=1",
        "joint.num_steps=2",
        "joint.batch_size=4",
    ],
    "sentence_scorer": [],
    "span_reader": [
        "data.vocab_size=400",
        "model.hidden_size=16",
        "model.num_hidden_layers=1",
        "data.test_fraction=0.4",
        *(f"{stage}.num_steps=2" for stage in ("seed", "joint")),
        *(f"{stage}.batch_size=4" for stage in ("seed", "joint")),
    ],
}
ROWS = 20
MAX_CHARACTERS = 5000


# Machines differ in the languages of their message catalogues; a recipe that names a fallback may use it.
@pytest.mark.filterwarnings("default:This machine has less than")
@pytest.mark.parametrize("recipe", LANGUAGE_MODEL_RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs(recipe, tmp_path):
    if recipe.stem == "multidomain" and not (FOLDER / "../../shared/data/lm/multidomain").is_dir():
        pytest.skip("the text of recipes/multidomain.yaml lies outside this repository and is not here")
    run = moesaic.run(recipe, settings=QUICK, folder=tmp_path / "run", quiet=True)
    assert run.report.exists()
    assert run.table.row("mixture, trained jointly").training_tokens > 0


@pytest.mark.parametrize("recipe", TASK_RECIPES, ids=lambda path: path.stem)
def test_the_recipe_of_a_task_runs(recipe, tmp_path):
    settings = [*QUICK_TASK, *QUICK_KIND[RECIPES[recipe].model.type], *some_rows(recipe, tmp_path)]
    run = moesaic.run(recipe, settings=settings, folder=tmp_path / "run", quiet=True)
    assert run.task_table.row("mixture, one expert a source").total_parameters > 0
    assert set(run.task_table.domains) == set(RECIPES[recipe].domain_names)


def some_rows(recipe, folder):
    """The settings that have a recipe read some of the shorter rows of its files, copied here."""
    settings = []
    for number, domain in enumerate(RECIPES[recipe].data.domains):
        for use in ("source", "validation", "test"):
            source = getattr(domain, use)
            if source is None:
                continue
            path = FOLDER / source.path
            if not path.exists():
                pytest.skip(f"the rows of recipes/{recipe.name} lie outside this repository and are not here")
            copy = folder / f"{domain.name}.{use}.jsonl"
            with gzip.open(path, "rt", encoding="utf-8") as file:
                rows = [row for row in file if len(row) < MAX_CHARACTERS and fits(row, source.where)]
            copy.write_text("".join(rows[:: max(1, len(rows) // ROWS)]), encoding="utf-8")
            settings.append(f"data.domains.{number}.{use}.path={copy}")
    return settings


def fits(row, where):
    return not where or where.items() <= json.loads(row).items()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_runs(script):
    result = subprocess.run(
        [sys.executable, script], env=os.environ | {"LAYERS": "1"}, check=True, capture_output=True, text=True
    )
    assert "times as fast" in result.stdout
