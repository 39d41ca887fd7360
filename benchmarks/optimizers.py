"""What does an expert learn from Muon's steps that it does not from AdamW's?

    python -m benchmarks.optimizers recipes/translation.yaml --domain en-de --set data.vocab_size=8000

Trains one expert of a task's recipe for fewer steps than the recipe does, with each optimizer at several learning
rates, and measures what it writes to the validation rows, each token the likeliest. How long a step takes is not
measured here.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.record import save
from moesaic import run
from moesaic.answering import WritingAnswerer
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.kinds import read_pairs
from moesaic.recipe.load import load_recipe
from moesaic.recipe.task_work import TaskWork

ARMS = (("adamw", 1.5e-3), ("adamw", 3e-3), ("adamw", 6e-3), ("muon", 2e-3), ("muon", 4e-3), ("muon", 8e-3))
LAST_STEPS = 100
"""Steps over which the training loss is averaged."""


def measure(recipe: Path, domain: str, num_rows: int, settings: list[str]) -> dict[str, Any]:
    """Train one expert, and score what it writes."""
    with TemporaryDirectory() as folder:
        run(recipe, settings=settings, folder=folder, until=f"expert-{domain}", quiet=True)
        work = TaskWork(load_recipe(recipe, settings), RunFolder(Path(folder)), Console(quiet=True))
        answerer = work.load_answerer(f"expert-{domain}")
        assert isinstance(answerer, WritingAnswerer)
        greedy = replace(answerer, decoding=replace(answerer.decoding, num_beams=1))
        pairs = read_pairs(work.folder.stage_folder("data"), domain, "validation")[:num_rows]
        texts = [answer.text for answer in greedy.answer(pairs)]
        scores = work.tasks.compare(work.recipe.task_of(domain), {"expert": texts}, pairs, num_resamples=1)["expert"]
        losses = [record["loss"] for record in work.history(f"expert-{domain}")]
    found = {metric: f"{score.value:.2f}" for metric, score in scores.items()}
    return found | {"training loss": f"{statistics.mean(losses[-LAST_STEPS:]):.3f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="A recipe of a task in which models write.")
    parser.add_argument("--domain", required=True)
    parser.add_argument("--num-steps", type=int, default=500)
    parser.add_argument("--num-rows", type=int, default=400, help="Validation rows that are answered.")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="Change one value of the recipe.")
    arguments = parser.parse_args()
    key, rows = "experts.training", []
    for optimizer, learning_rate in ARMS:
        settings = [
            *arguments.settings,
            f"{key}.num_steps={arguments.num_steps}",
            f"{key}.num_warmup_steps={arguments.num_steps // 5}",
            f"{key}.optimizer={optimizer}",
            f"{key}.learning_rate={learning_rate}",
        ]
        row = {"optimizer": optimizer, "learning rate": f"{learning_rate:g}"}
        rows.append(row | measure(arguments.recipe, arguments.domain, arguments.num_rows, settings))
        # After each, so that what was measured is not lost where a later one is stopped.
        command = f"optimizers {arguments.recipe.as_posix()} --domain {arguments.domain}"
        command += "".join(f" --set {setting}" for setting in arguments.settings)
        save("optimizers", rows, command=command, num_steps=arguments.num_steps, num_rows=arguments.num_rows)


if __name__ == "__main__":
    main()
