"""What a run tells while it works: bars on a terminal, plain lines elsewhere, TensorBoard events in both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from moesaic.training import OnStep, StepRecord, TrainingOptions, is_main

LINES_PER_STAGE = 4
"""Lines that a training stage prints where the output is no terminal."""


@contextmanager
def training_progress(stage: str, options: TrainingOptions, console: Console, events: Path) -> Iterator[OnStep]:
    """Show loss, tokens per second and time left while a stage trains.

    Args:
        stage: What the stage is called.
        options: How many steps there are.
        console: Where to show it.
        events: Folder of the stage's TensorBoard event files.

    Yields:
        What the training loop calls after every step.
    """
    if not is_main():
        yield lambda record: None
        return
    started = time.perf_counter()
    writer = SummaryWriter(events)
    columns = (
        TextColumn("  {task.description:20}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(stage, total=options.num_steps, facts="")
    first_tokens: int | None = None

    def on_step(record: StepRecord) -> None:
        nonlocal first_tokens
        if first_tokens is None:  # a continued stage did not do the earlier steps now
            first_tokens = record.num_tokens - options.tokens_per_step
        for name, value in {"loss": record.loss, "learning_rate": record.learning_rate, **record.parts}.items():
            writer.add_scalar(name, value, record.step)
        speed = (record.num_tokens - first_tokens) / (time.perf_counter() - started)
        facts = f"loss {record.parts.get('nats', record.loss):.3f}  {speed:,.0f} tokens/s"
        bar.update(task, completed=record.step, facts=facts)
        every = max(1, options.num_steps // LINES_PER_STAGE)
        if not console.is_terminal and (record.step % every == 0 or record.step == options.num_steps):
            left = (options.num_tokens - record.num_tokens) / speed
            console.print(f"  step {record.step}/{options.num_steps}  {facts}  {left:.0f} s left", highlight=False)

    with bar:
        yield on_step
    writer.close()


def over_rounds(on_step: OnStep, tokens_per_step: int) -> OnStep:
    """Count the steps of trainings that follow each other as those of one.

    Args:
        on_step: Told of every step, numbered through.
        tokens_per_step: Tokens of a step, the same in all rounds.
    """
    done, last = 0, 0

    def counted(record: StepRecord) -> None:
        nonlocal done, last
        if record.step <= last:
            done += last
        last = record.step
        on_step(replace(record, step=done + last, num_tokens=(done + last) * tokens_per_step))

    return counted
