"""How much of a BLEU score is the way in which words are told apart?

    python -m benchmarks.bleu_tokenization recipes/translation.yaml

Reads what the systems of a finished run wrote, and scores each domain's own expert and its ensemble with several of
sacrebleu's tokenizers. Papers that score text after a tokenizer of their own are closer to ``intl``, which takes
every mark of punctuation for a word, than to sacrebleu's default ``13a``, which leaves "l'homme" one word.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from sacrebleu.metrics.bleu import BLEU

from benchmarks.record import save
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.load import load_recipe
from moesaic.recipe.task_systems import plan_systems
from moesaic.recipe.task_work import TaskWork

TOKENIZERS = ("13a", "intl", "char")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="A recipe of the task translation.")
    parser.add_argument("--run", type=Path, help="The run's folder; runs/NAME-OF-RECIPE if not given.")
    arguments = parser.parse_args()
    folder = RunFolder(arguments.run or Path("runs") / arguments.recipe.stem)
    work = TaskWork(load_recipe(arguments.recipe), folder, Console(quiet=True))
    rows = []
    for system in plan_systems(work):
        own = [name for name in system.domains if system.name == f"expert {name}" or f"({name})" in system.name]
        for domain in own:
            texts = work.answered(system.name)["texts"][domain]
            references = [[pair.target for pair in work.pairs(domain)]]
            scores = {name: BLEU(tokenize=name).corpus_score(texts, references).score for name in TOKENIZERS}
            rows.append({"system": system.name} | {name: f"{score:.2f}" for name, score in scores.items()})
    save("bleu_tokenization", rows, command=f"bleu_tokenization {arguments.recipe.as_posix()}")


if __name__ == "__main__":
    main()
