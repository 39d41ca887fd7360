"""Go the road of a recipe, or the part of it that is still to be done."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from moesaic.arena import ArenaTable, TaskTable
from moesaic.members import quiet_transformers
from moesaic.recipe.folder import RunFolder, Stage
from moesaic.recipe.load import load_recipe
from moesaic.recipe.parallel import train_side_by_side
from moesaic.recipe.roads import plan
from moesaic.recipe.spending import ancestors
from moesaic.recipe.stage_work import versions
from moesaic.recipe.task_schema import TaskRecipe
from moesaic.recipe.task_work import TaskWork
from moesaic.recipe.work import Work
from moesaic.training import is_main, num_processes, process_group


@dataclass(frozen=True)
class Run:
    """A run, as far as it went.

    Attributes:
        folder: Its folder.
        model: The mixture of the last stage: a sparse checkpoint, which plain Transformers loads, or for a task a
            mixture of whole models.
        report: The page; a task has none.
    """

    folder: Path
    model: Path
    report: Path | None

    @property
    def table(self) -> ArenaTable:
        """The arena's table.

        Raises:
            ValueError: If the run is that of a task, whose table is another (:attr:`task_table`).
        """
        values = self._table()
        if "metrics" in values:
            raise ValueError(f"{self.folder}: this is the run of a task; see Run.task_table.")
        return ArenaTable.from_json(json.dumps(values))

    @property
    def task_table(self) -> TaskTable:
        """The arena's table where the recipe is one of a task.

        Raises:
            ValueError: If it is not.
        """
        values = self._table()
        if "metrics" not in values:
            raise ValueError(f"{self.folder}: this is the run of language models; see Run.table.")
        return TaskTable.from_json(json.dumps(values))

    def _table(self) -> dict[str, Any]:
        return json.loads((self.folder / "stages" / "arena" / "table.json").read_text())


def run(
    recipe: str | Path,
    *,
    settings: Sequence[str] = (),
    folder: str | Path | None = None,
    until: str | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> Run:
    """Go the whole road of a recipe: data, seed, experts, assemble, router, joint, arena, report, export.

    That of a task (translation) is: data, experts, dense, router, joint, answers, arena, export.

    Stages that are done are not done again, unless their part of the recipe or something that they need has changed. A
    run that was stopped at any moment continues, and ends with the same bits as one that never stopped.

    Args:
        recipe: The YAML file.
        settings: One-off changes, each ``dotted.key=value``.
        folder: The run's folder; ``runs/NAME-OF-RECIPE`` if not given.
        until: Do this stage and what it needs, nothing else; go to the end if not given.
        jobs: Independent models that are trained at a time, each in a process of its own with its share of the cores.
            Rows of the arena are measured one by one, so that their speed means something.
        quiet: Print nothing but warnings.

    Raises:
        RecipeError: If the recipe cannot be read or does not make sense.
        DataError: If a source cannot be read, or has too little text.
        CheckpointError: If a checkpoint is damaged or does not fit.
        TrainingError: If the loss is no longer a number.
        RunError: If the folder holds something else, is in use, or the disk is full.
        ValueError: If there is no stage called ``until``, or ``jobs`` is not 1 or more.
    """
    started = time.perf_counter()
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}.")
    loaded = load_recipe(recipe, settings)
    run_folder = RunFolder(Path(folder) if folder is not None else Path("runs") / loaded.name)
    console = Console(file=io.StringIO()) if quiet else Console()
    with process_group(), quiet_transformers(), run_folder.claim():
        work, stages = plan(loaded, run_folder, console)
        if until is not None:
            names = [stage.name for stage in stages]
            if until not in names:
                raise ValueError(f"until must be one of {', '.join(names)}, got {until!r}.")
            gone = ancestors([until], stages)
            stages = [stage for stage in stages if stage.name in gone]
        to_do = run_folder.plan(stages)
        if is_main():
            with run_folder.name_full_disk("the recipe"):
                (run_folder.path / "recipe.yaml").write_text(loaded.text, encoding="utf-8")
                _write_lock(run_folder, stages)
        _execute(work, stages, to_do, jobs, quiet)
        with run_folder.name_full_disk("the page"):
            names = [stage.name for stage in stages]
            is_task = isinstance(loaded.recipe, TaskRecipe)
            result = Run(run_folder.path, run_folder.path / "model", None) if is_task else _result(run_folder, names)
        if is_main() and until is None:
            _summarize(result, console, bool(to_do), time.perf_counter() - started)
    return result


def _execute(work: Work | TaskWork, stages: Sequence[Stage], to_do: Sequence[Stage], jobs: int, quiet: bool) -> None:
    """Do what is to be done: one stage after the other, or training stages that do not need each other together."""
    together = [stage for stage in to_do if stage.shared] if jobs > 1 and num_processes() == 1 else []
    done = {stage.name for stage in stages if stage not in to_do}
    started = time.perf_counter()

    def say_done(stage: Stage) -> None:
        place = f"{stages.index(stage) + 1} of {len(stages)}"
        work.say(f"[bold]{stage.name}[/]  ({place}) done after {time.perf_counter() - started:.1f} s")

    for stage in to_do:
        if stage.name in done:
            continue
        if stage in together:
            ready = [other for other in together if other.name not in done]
            reachable = _reachable(ready, done)
            train_side_by_side(
                work.loaded,
                work.folder,
                reachable,
                done,
                num_processes=min(jobs, len(reachable)),
                on_done=say_done,
                quiet=quiet,
            )
            continue
        stage_started = time.perf_counter()
        work.say(f"[bold]{stage.name}[/]  ({stages.index(stage) + 1} of {len(stages)})")
        work.folder.execute(stage)
        done.add(stage.name)
        work.say(f"  done in {time.perf_counter() - stage_started:.1f} s")


def _reachable(stages: Sequence[Stage], done: set[str]) -> list[Stage]:
    """The stages that need nothing but each other and what is done."""
    found: list[Stage] = []
    for stage in stages:
        if set(stage.needs) <= done | {other.name for other in found}:
            found.append(stage)
    return found


def _result(folder: RunFolder, gone: Sequence[str]) -> Run:
    sparse = [name for name in ("assemble", "router", "joint") if name in gone]
    unfinished = sparse and "export" not in gone
    model = folder.stage_folder(sparse[-1]) / "model" if unfinished else folder.path / "model"
    page, top = folder.path / "report" / "report.html", folder.path / "report.html"
    if page.exists() and is_main():
        partial = folder.path / ".report.html.partial"
        shutil.copyfile(page, partial)
        partial.replace(top)
    return Run(folder.path, model, top)


def _summarize(result: Run, console: Console, worked: bool, seconds: float) -> None:
    table = result.task_table if result.report is None else result.table
    console.print()
    console.print(table.to_rich(width=console.width))
    console.print(table.verdict(), highlight=False)
    console.print()
    what = f"Done in {seconds:.0f} s." if worked else "All stages were done already; nothing was done again."
    page = "" if result.report is None else f"\n  page   {result.report}"
    console.print(f"{what}{page}\n  model  {result.model}", highlight=False)


def _write_lock(folder: RunFolder, stages: Sequence[Stage]) -> None:
    """Note what the run was made with and what each stage depends on."""
    lock = {"versions": dict(versions()), "stages": {stage.name: folder.keys[stage.name] for stage in stages}}
    (folder.path / "lock.json").write_text(json.dumps(lock, indent=2) + "\n")
