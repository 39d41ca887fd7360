"""Does a routed mixture of whole members cost what the chosen ones cost, however many there are?

    python -m benchmarks.routed_cost

The members are perceptrons (256 features, 1024 hidden units, 10 classes), the router is a linear layer. Mixtures of 4,
16 and 64 members answer the same rows; they take turns, and a figure is the median time over rounds as a multiple of
that of the mixture of 4. The last column is what asking all of 16 members costs, as a multiple of asking the chosen.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn

from benchmarks.record import save
from moesaic.members import ModuleMember
from moesaic.routed_mixture import FeatureRouter, RoutedMixture

FEATURES, HIDDEN, CLASSES = 256, 1024, 10
COUNTS = (4, 16, 64)
ROWS = (1, 256, 4096)
WARM_UP = 3


def mixture(num_members: int, top_k: int | None) -> RoutedMixture:
    torch.manual_seed(0)
    members = [
        ModuleMember(
            f"member-{number}", nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        )
        for number in range(num_members)
    ]
    router = FeatureRouter(num_features=FEATURES, num_members=num_members)
    return RoutedMixture(members, router, top_k=top_k).eval()


@torch.no_grad()
def measure(num_rows: int, top_k: int, rounds: int) -> dict[str, Any]:
    arms: dict[str, RoutedMixture] = {f"{count} members": mixture(count, top_k) for count in COUNTS}
    arms["all of 16"] = mixture(16, None)
    rows = torch.randn(num_rows, FEATURES)
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(WARM_UP + rounds):
        for name, arm in arms.items():
            started = time.perf_counter()
            arm(rows)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = medians[f"{COUNTS[0]} members"]
    shown = {f"of {count}": f"{medians[f'{count} members'] / first:.2f}" for count in COUNTS[1:]}
    return {
        "rows": num_rows,
        "members asked": top_k,
        "of 4, ms": f"{1e3 * first:.2f}",
        **shown,
        "all of 16": f"{medians['all of 16'] / medians['16 members']:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = [measure(num_rows, top_k, arguments.rounds) for num_rows in ROWS for top_k in (1, 2)]
    save("routed_cost", rows, command="routed_cost", rounds=arguments.rounds, threads=2, seed=0)


if __name__ == "__main__":
    main()
