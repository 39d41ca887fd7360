"""A run is a folder: stages that are whole or absent, and are done again only when what they depend on changes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moesaic.errors import RunError, is_disk_full
from moesaic.training import is_main, wait_for_all

MARKER = "run.json"
_STAGE = ".stage.json"


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: What it is called, and its folder.
        work: Writes the stage's files into the folder that it is given; called again after a kill, with what it had
            written.
        settings: JSON values; the stage is done again when they change.
        needs: Names of the stages whose files it reads; it is done again when one of them is.
        shared: Every process takes part, not only the main one (training under ``torchrun``).
        place: Its folder in the run's folder; ``stages/NAME`` if not given.
    """

    name: str
    work: Callable[[Path], None]
    settings: Any
    needs: tuple[str, ...] = ()
    shared: bool = False
    place: str | None = None


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where it is.
        keys: What each finished or planned stage depends on, as a hash; filled as stages are run.
    """

    path: Path
    keys: dict[str, str] = field(default_factory=dict)

    def stage_folder(self, name: str) -> Path:
        """Where the files of a finished stage are that has no place of its own."""
        return self.path / "stages" / name

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder for one command at a time.

        Raises:
            RunError: If the folder holds something else, or another command works in it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: this is a file. Give the folder of a run, or one that does not exist yet.")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / MARKER).exists():
            raise RunError(
                f"{self.path}: this folder holds something else, and nothing in it was touched. "
                "Give an empty folder, or one that does not exist yet."
            )
        if not is_main():
            wait_for_all()
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / MARKER).exists():
            (self.path / MARKER).write_text(json.dumps({"format": "moesaic run", "version": 1}) + "\n")
        with (self.path / "run.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path}: another command is at work in this run. Wait for it, or stop it."
                ) from None
            wait_for_all()
            yield

    def plan(self, stages: Sequence[Stage]) -> list[Stage]:
        """Work out what each stage depends on; return the stages that are still to be done."""
        for stage in stages:
            parts = [stage.name, stage.settings, [self.keys[name] for name in stage.needs]]
            digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16)
            self.keys[stage.name] = digest.hexdigest()
        return [stage for stage in stages if not self._is_done(stage)]

    def execute(self, stage: Stage) -> None:
        """Do one stage: in a partial folder that a kill leaves behind and the next run continues, then renamed.

        Raises:
            RunError: If the disk is full.
        """
        partial = self._partial(stage)
        if is_main():
            with self.name_full_disk(f"stage {stage.name}"):
                self._prepare(stage, partial)
        wait_for_all()
        with self.name_full_disk(f"stage {stage.name}"):
            if stage.shared or is_main():
                stage.work(partial)
            if is_main():
                (partial / _STAGE).write_text(json.dumps({"key": self.keys[stage.name], "complete": True}))
                self._publish(stage, partial)
        wait_for_all()

    @contextlib.contextmanager
    def name_full_disk(self, doing: str) -> Iterator[None]:
        """Say in a sentence that the disk is full, and what to do.

        Raises:
            RunError: In place of the error that says so.
        """
        try:
            yield
        except Exception as error:
            if not is_disk_full(error):
                raise
            free = shutil.disk_usage(self.path).free
            raise RunError(
                f"{self.path}, {doing}: the disk is full ({free / 1e6:.0f} MB left). Finished stages are kept; make "
                f"room "
                "and give the same command again."
            ) from None

    def _is_done(self, stage: Stage) -> bool:
        partial = self._partial(stage)
        if is_main() and self._key_of(partial, complete=True) == self.keys[stage.name]:
            self._publish(stage, partial)  # killed between finishing and renaming
        wait_for_all()
        return self._key_of(self._final(stage), complete=True) == self.keys[stage.name]

    def _final(self, stage: Stage) -> Path:
        return self.path / stage.place if stage.place else self.stage_folder(stage.name)

    def _partial(self, stage: Stage) -> Path:
        final = self._final(stage)
        return final.parent / f".partial-{final.name}"

    def _prepare(self, stage: Stage, partial: Path) -> None:
        if self._key_of(partial) != self.keys[stage.name]:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            (partial / _STAGE).write_text(json.dumps({"key": self.keys[stage.name], "complete": False}))

    def _publish(self, stage: Stage, partial: Path) -> None:
        shutil.rmtree(self._final(stage), ignore_errors=True)
        partial.rename(self._final(stage))

    @staticmethod
    def _key_of(folder: Path, *, complete: bool = False) -> str | None:
        try:
            written = json.loads((folder / _STAGE).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return written["key"] if written["complete"] or not complete else None
