"""Every recipe that we ship goes its whole road, with a few steps and a little text; every script runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import moesaic

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
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


# Machines differ in the languages of their message catalogues; a recipe that names a fallback may use it.
@pytest.mark.filterwarnings("default:This machine has less than")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs(recipe, tmp_path):
    if recipe.stem == "multidomain" and not (FOLDER / "../../shared/data/lm/multidomain").is_dir():
        pytest.skip("the text of recipes/multidomain.yaml lies outside this repository and is not here")
    run = moesaic.run(recipe, settings=QUICK, folder=tmp_path / "run", quiet=True)
    assert run.report.exists()
    assert run.table.row("mixture, trained jointly").training_tokens > 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_runs(script):
    result = subprocess.run(
        [sys.executable, script], env=os.environ | {"LAYERS": "1"}, check=True, capture_output=True, text=True
    )
    assert "times as fast" in result.stdout
