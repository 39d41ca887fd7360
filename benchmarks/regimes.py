"""Which way of combining wins depends on how far everything was trained: three regimes of the same road.

    python -m benchmarks.regimes

Loss in nats per token on test documents, mean over the domains of the quickstart, with 95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import moesaic
from benchmarks.record import save
from moesaic.arena import DENSE, ORACLE

RECIPE = Path("recipes/quickstart.yaml")
REGIMES = {
    "everything undertrained": [
        "seed.hidden_size=96",
        "seed.intermediate_size=384",
        "seed.num_hidden_layers=3",
        "seed.training.num_steps=300",
        "joint.num_steps=100",
    ],
    "experts trained long, joint training short": [
        "experts.training.num_steps=250",
        "joint.num_steps=150",
    ],
    "experts trained briefly, joint training long (the quickstart)": [],
}
ROWS = ("mixture, trained jointly", DENSE, ORACLE, "posterior", "probability average", "parameter average", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/regimes"))
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, (regime, settings) in enumerate(REGIMES.items()):
        run = moesaic.run(RECIPE, folder=arguments.folder / str(number), settings=settings, until="arena", quiet=True)
        table = run.table
        losses = {name: table.mean(table.row(name)) for name in ROWS}
        best = min((name for name in ROWS if name != ORACLE), key=lambda name: losses[name].value)
        rows.append({"regime": regime, "lowest": best} | {name: str(loss) for name, loss in losses.items()})
        print(f"{regime}: {table.verdict()}", flush=True)
    save("regimes", rows, settings=REGIMES, recipe=RECIPE.read_text())


if __name__ == "__main__":
    main()
