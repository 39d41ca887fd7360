"""Folders that are whole or not there: they are filled under another name and renamed."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moesaic.errors import RunError, is_disk_full


@contextmanager
def new_folder(output: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """Fill a folder in a hidden sibling and rename it into place when it is whole.

    Raises:
        RunError: If ``output`` holds something, or the disk is or becomes full; nothing is left behind then.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"{output}: this already holds something, and nothing in it was touched. Give a new folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with _sibling(output, needed_bytes) as partial:
        yield partial
        if output.exists():
            output.rmdir()
        partial.rename(output)


@contextmanager
def changed_folder(folder: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """Fill a hidden sibling that takes the place of a folder when it is whole; the folder is readable until then.

    The folder that was is renamed to ``.replaced-NAME`` before the new one takes its name, and then removed. A process
    that is killed between the two renames leaves it there, whole, and :func:`restore_folder` gives it its name again.

    Raises:
        RunError: If the disk is or becomes full; the folder is then what it was.
    """
    replaced = _replaced(folder)
    with _sibling(folder, needed_bytes) as partial:
        yield partial
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        try:
            partial.rename(folder)
        except OSError:
            replaced.rename(folder)
            raise
    shutil.rmtree(replaced, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Undo what is left of :func:`changed_folder` where it was killed between its renames; warns where it was.

    The folder is then what it was before the change, so that the same command may be given again.
    """
    replaced = _replaced(folder)
    if replaced.is_dir() and not folder.exists():
        replaced.rename(folder)
        warnings.warn(
            f"{folder}: a change of this folder was cut off in its last moment, so it is again what it was before. "
            "Make the change again.",
            stacklevel=2,
        )


def _replaced(folder: Path) -> Path:
    """Where a folder lies while another takes its place."""
    return folder.parent / f".replaced-{folder.name}"


@contextmanager
def _sibling(output: Path, needed_bytes: int) -> Iterator[Path]:
    free = shutil.disk_usage(output.parent).free
    if needed_bytes > free:
        raise RunError(
            f"{output}: {needed_bytes / 1e9:.2f} GB are needed, and {free / 1e9:.2f} GB are free. Make room, or give "
            "a folder on another disk."
        )
    partial = output.parent / f".partial-{output.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise RunError(f"{output}: the disk is full. What was written is removed; make room and try again.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
