"""Stages that train independent models, side by side in processes that share the processor out."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import torch
from rich.console import Console

from moesaic.members import quiet_transformers
from moesaic.recipe.folder import RunFolder, Stage
from moesaic.recipe.load import LoadedRecipe
from moesaic.recipe.roads import plan


def train_side_by_side(
    loaded: LoadedRecipe[Any],
    folder: RunFolder,
    stages: Sequence[Stage],
    done: set[str],
    *,
    num_processes: int,
    on_done: Callable[[Stage], None],
    quiet: bool = False,
) -> None:
    """Execute training stages in processes of their own, each as soon as what it needs is there.

    Every process gets an equal share of the processor's cores. A stage gives the same bits as by itself only where the
    number of threads does not change them; PyTorch's sums depend on it in their last digits.

    Args:
        loaded: The recipe.
        folder: The run's folder, claimed by the caller.
        stages: The stages to execute, in the order of the road; what they need is done or among them.
        done: Names of the stages that are done; those executed are added.
        num_processes: Stages at a time.
        on_done: Told of every stage that is done.
        quiet: Print nothing of what a stage says while it works.

    Raises:
        Exception: What a stage raised, when the stages beside it have ended.
    """
    waiting = list(stages)
    running: dict[Future[None], Stage] = {}
    context = multiprocessing.get_context("spawn")
    num_threads = max(1, (os.cpu_count() or 1) // num_processes)
    with ProcessPoolExecutor(num_processes, context, initializer=_begin, initargs=(num_threads,)) as pool:
        while waiting or running:
            for stage in [stage for stage in waiting if done.issuperset(stage.needs)]:
                waiting.remove(stage)
                running[pool.submit(_execute, loaded, folder, stage.name, quiet)] = stage
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                stage = running.pop(future)
                future.result()
                done.add(stage.name)
                on_done(stage)


def _begin(num_threads: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(num_threads)


def _execute(loaded: LoadedRecipe[Any], folder: RunFolder, name: str, quiet: bool) -> None:
    _, stages = plan(loaded, folder, Console(file=io.StringIO() if quiet else _UnderName(name)))
    with quiet_transformers():
        folder.execute(next(stage for stage in stages if stage.name == name))


class _UnderName(io.StringIO):
    """Standard output, on which each line says which of the stages that work at the time it is from."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def write(self, text: str) -> int:
        for line in filter(None, map(str.strip, text.splitlines())):
            print(f"  {self.name}: {line}", flush=True)
        return len(text)
