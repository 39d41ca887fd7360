"""Sixteen small members of one shape: a loop over them, PyTorch's ``vmap(grad)``, and moesaic's stacked model.

    python -m benchmarks.stacked_members

Each figure is for forward and backward of all members on one batch. Outputs and gradients are compared with the loop's
before anything is timed; the three take turns, and what is shown are medians over the rounds, with the tenth and
ninetieth percentile of our ratio. The share of matrix products in the stacked model's time says what is left to gain:
the loop has the same products to compute.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import save
from moesaic.members.stacked import LARGEST_STACKED, StackedMembers, choose_execution
from moesaic.training.memory import keep_memory_warm

NUM_MEMBERS, NUM_CLASSES, NUM_THREADS = 16, 10, 2
LENGTH = 16
WARM_UP = 2

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]


def mlp(width: int, batch: int = 32) -> Case:
    def make() -> nn.Module:
        hidden = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(width, NUM_CLASSES))

    return Case(f"MLP, width {width}, batch {batch}", make, (batch, width))


def transformer(width: int, batch: int = 32) -> Case:
    def make() -> nn.Module:
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, NUM_CLASSES))

    return Case(f"transformer, width {width}, batch {batch}", make, (batch, LENGTH, width))


CASES = [
    *(mlp(width) for width in (64, 128, 256, 512, 2048)),
    transformer(64, batch=4),
    *(transformer(width) for width in (64, 128, 256, 384)),
]


def loss_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of one member; a transformer's positions are averaged."""
    return F.cross_entropy(scores.mean(dim=1) if scores.dim() == 3 else scores, labels)


def total_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The sum of the members' losses."""
    scores = scores.mean(dim=2) if scores.dim() == 4 else scores  # (member, batch, class)
    return F.cross_entropy(scores.flatten(0, 1), labels.repeat(NUM_MEMBERS), reduction="sum") / len(labels)


def steps_of(case: Case, members: list[nn.Module]) -> dict[str, Step]:
    """Forward and backward of all members in three ways, after they were found to agree."""
    inputs, labels = torch.randn(case.input_shape), torch.randint(NUM_CLASSES, case.input_shape[:1])
    joined = StackedMembers(members)
    template = case.make().to("meta")
    values, _ = stack_module_state(members)

    def loss_of_member(tensors: dict[str, Tensor]) -> Tensor:
        return loss_of(functional_call(template, tensors, (inputs,)), labels)

    gradients = vmap(grad(loss_of_member))

    def loop() -> None:
        for member in members:
            member.zero_grad()
            loss_of(member(inputs), labels).backward()

    def stacked() -> None:
        joined.zero_grad()
        total_loss(joined(inputs), labels).backward()

    with torch.no_grad():
        close(joined(inputs), torch.stack([member(inputs) for member in members]))
    loop()
    stacked()
    by_vmap = gradients(values)
    for name, parameter in joined.members.named_parameters():
        expected = torch.stack([of(member.get_parameter(name)) for member in members])
        close(of(parameter), expected)
        close(by_vmap[name], expected)
    return {"loop": loop, "vmap": lambda: gradients(values), "stacked": stacked}


def close(given: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, as a whole: in a wide layer some activation lies so near 0 that its sign is rounding."""
    difference = (given - expected).norm() / expected.norm()
    assert difference < 1e-3, f"the ways differ by {difference:.1e}"


def of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, one a round; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if number >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - started))
    return times


def share_of_products(step: Step) -> float:
    """Share of a step's time that its matrix products take."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        step()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return (times.get("aten::bmm", 0.0) + times.get("aten::baddbmm", 0.0)) / sum(times.values())


def row(case: Case, rounds: int) -> dict[str, Any]:
    members = [case.make() for _ in range(NUM_MEMBERS)]
    steps = steps_of(case, members)
    times = measure(steps, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [loop / stacked for loop, stacked in zip(times["loop"], times["stacked"], strict=True)]
    tenths = statistics.quantiles(ratios, n=10)
    return {
        "members": f"{NUM_MEMBERS} × {case.name}",
        "loop, ms": medians["loop"],
        "vmap(grad), times as fast": medians["loop"] / medians["vmap"],
        "stacked, times as fast": medians["loop"] / medians["stacked"],
        "10% of rounds below": tenths[0],
        "10% above": tenths[-1],
        "products, share of stacked": share_of_products(steps["stacked"]),
        "automatic choice": choose_execution(members, case.input_shape[:-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-memory", action="store_true", help="keep freed memory, as moesaic's training does")
    options = parser.parse_args()
    # vmap says so where an operator has no batching rule; its time is in the table.
    warnings.filterwarnings("ignore", message=".*batching rule.*")
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    if options.warm_memory:
        keep_memory_warm()
    rows = []
    for case in CASES:
        rows.append(row(case, options.rounds))
        gc.collect()
    save(
        "stacked_members_warm" if options.warm_memory else "stacked_members",
        rows,
        command="stacked_members" + (" --warm-memory" if options.warm_memory else ""),
        rounds=options.rounds,
        threads=NUM_THREADS,
        positions=LENGTH,
        largest_stacked=LARGEST_STACKED,
        seed=0,
    )


if __name__ == "__main__":
    main()
