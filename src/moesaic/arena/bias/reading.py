"""Rows of test files, each with the place that an error names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moesaic.data import JsonLines
from moesaic.errors import DataError


def read_rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a CSV file with a header, or a JSONL file, which may be packed (``.gz``).

    Raises:
        DataError: If the file is missing or is neither, or a line cannot be read.
    """
    path = Path(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from JsonLines(path).rows()
    elif path.suffix == ".csv":
        yield from _csv_rows(path)
    else:
        raise DataError(f"{path}: the name of a file of tests ends in .csv, .jsonl or .jsonl.gz.")


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}, after line {reader.line_num}: this is no CSV in UTF-8 ({error}).") from None


def text_field(row: dict[str, Any], field: str, where: str) -> str:
    """A field that holds text.

    Raises:
        DataError: If there is no such field, or it is empty or no text.
    """
    if field not in row:
        raise DataError(f"{where}: there is no field {field!r}; there are {', '.join(map(str, row)) or 'none'}.")
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: the field {field!r} must be text that is not empty, got {value!r}.")
    return value


def choice_field(row: dict[str, Any], field: str, allowed: Sequence[str], where: str) -> str:
    """A field that holds one of a few words.

    Raises:
        DataError: If it holds another.
    """
    value = text_field(row, field, where)
    if value not in allowed:
        raise DataError(f"{where}: the field {field!r} must be one of {', '.join(allowed)}, got {value!r}.")
    return value
