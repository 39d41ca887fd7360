"""Where documents come from."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from moesaic.errors import DataError


@runtime_checkable
class Source(Protocol):
    """Something that has documents."""

    def documents(self) -> Iterator[str]:
        """Read the documents, in an order that does not change."""
        ...

    def fingerprint(self) -> str:
        """A word that changes when the documents do, and stays what it is where files are moved or copied."""
        ...


@runtime_checkable
class RowSource(Source, Protocol):
    """A source whose documents are fields of rows, which tasks read whole."""

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read the rows, in an order that does not change, each with where it stands, as errors say it."""
        ...


Data = str | Path | Source | Mapping[str, str | Path | Source]
"""Text as functions take it: a file or folder, a source, or several of them by the names of their domains."""


@dataclass(frozen=True)
class JsonLines:
    """A JSONL file: one JSON object a line; unpacked where its name ends in ``.gz``.

    Attributes:
        path: The file.
        field: The key that holds the document.
        where: Values of other keys; lines with other values are left out, such as those of another domain.
    """

    path: Path
    field: str = "text"
    where: Mapping[str, str] = dataclass_field(default_factory=dict)

    def documents(self) -> Iterator[str]:
        """Read one document a line.

        Raises:
            DataError: If the file is missing, is not UTF-8, or a line is no JSON object with these fields as text.
        """
        for place, row in self.rows():
            yield _field(row, self.field, place)

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """See :meth:`RowSource.rows`.

        Raises:
            DataError: If the file is missing, is not UTF-8, or a line is no JSON object with the fields of ``where``.
        """
        _check_exists(self.path)
        with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file:
            # Lines end at "\n" alone: some texts contain other separators.
            for number, line in enumerate(_read_lines(file, self.path), start=1):
                if line.strip():
                    place = f"{self.path}, line {number}"
                    row = self._row(line, place)
                    if all(_field(row, key, place) == value for key, value in self.where.items()):
                        yield place, row

    def _row(self, line: bytes, where: str) -> dict[str, Any]:
        text = _decode(line, where)
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: this is no JSON ({error.msg} at column {error.colno}). Write one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: a line must be a JSON object, got {type(row).__name__}.")
        return row

    def fingerprint(self) -> str:
        """See :meth:`Source.fingerprint`."""
        return _fingerprint([self.path], self.field, *(f"{key}={value}" for key, value in self.where.items()))


@dataclass(frozen=True)
class Parquet:
    """A Parquet file.

    Attributes:
        path: The file.
        field: The column that holds the document.
    """

    path: Path
    field: str = "text"

    def documents(self) -> Iterator[str]:
        """Read one document a row.

        Raises:
            DataError: If the file is missing, damaged, or lacks the column, or a row holds no text.
        """
        for place, row in self._rows([self.field]):
            yield _text(row[self.field], self.field, place)

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """See :meth:`RowSource.rows`.

        Raises:
            DataError: If the file is missing or damaged.
        """
        return self._rows(None)

    def _rows(self, columns: list[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
        import pyarrow
        import pyarrow.parquet

        _check_exists(self.path)
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                for column in columns or ():
                    if column not in names:
                        raise DataError(f"{self.path}: there is no column {column!r}; there are {', '.join(names)}.")
                number = 0
                for batch in file.iter_batches(columns=columns, batch_size=1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{self.path}, row {number}", row
        except (pyarrow.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.path}: this is no whole Parquet file ({reason}). Copy or write it again.") from None

    def fingerprint(self) -> str:
        """See :meth:`Source.fingerprint`."""
        return _fingerprint([self.path], self.field)


@dataclass(frozen=True)
class TextFolder:
    """A folder of text files, one document a file.

    Attributes:
        path: The folder.
        pattern: Which files, as :meth:`pathlib.Path.glob` spells it.
    """

    path: Path
    pattern: str = "**/*.txt"

    def documents(self) -> Iterator[str]:
        """Read one document a file, in the order of their names.

        Raises:
            DataError: If the folder is missing or has no such file, or a file is not UTF-8.
        """
        files = self._files()
        if not files:
            raise DataError(f"{self.path}: no file matches {self.pattern!r}. Give another folder or pattern.")
        for file in files:
            yield _decode(file.read_bytes(), str(file))

    def fingerprint(self) -> str:
        """See :meth:`Source.fingerprint`."""
        return _fingerprint(self._files(), self.pattern)

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            raise DataError(f"{self.path}: there is no such folder.")
        return sorted(path for path in self.path.glob(self.pattern) if path.is_file())


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hugging Face Hub, or anything else that ``datasets.load_dataset`` reads.

    Attributes:
        name: Its name, such as ``Salesforce/wikitext``, or a local folder.
        config: Its configuration, where it has several.
        split: Which of its splits to read.
        field: The column that holds the document.
        revision: A commit or tag, so that the data stays what it is.
    """

    name: str
    config: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str | None = None

    def documents(self) -> Iterator[str]:
        """Read one document a row.

        Raises:
            DataError: If the dataset cannot be loaded or lacks the column.
        """
        rows = self._load()
        if self.field not in rows.column_names:
            raise DataError(
                f"Dataset {self.name!r}: there is no column {self.field!r}; there are {', '.join(rows.column_names)}."
            )
        for number, value in enumerate(rows[self.field]):
            yield _text(value, self.field, f"Dataset {self.name!r}, row {number}")

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """See :meth:`RowSource.rows`.

        Raises:
            DataError: If the dataset cannot be loaded.
        """
        for number, row in enumerate(self._load()):
            yield f"Dataset {self.name!r}, row {number}", row

    def _load(self) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.name, self.config, split=self.split, revision=self.revision)
        except Exception as error:  # the library raises many kinds: unknown names, no network, damaged files
            reason = str(error).splitlines()[0]
            raise DataError(f"Dataset {self.name!r}, split {self.split!r}: cannot be loaded ({reason}).") from error

    def fingerprint(self) -> str:
        """The name and revision: what is on the Hub is not looked at before it is needed."""
        return _hash([self.name, self.config, self.split, self.field, self.revision])


def name_sources(data: Data) -> dict[str, Source]:
    """The sources in what a function was given; one that has no name is called like its file.

    Raises:
        DataError: If there is no such file, or its name does not end as a known format does.
    """
    if isinstance(data, Mapping):
        return {name: open_source(entry) for name, entry in data.items()}
    name = Path(data).name.split(".")[0] if isinstance(data, str | Path) else "text"
    return {name: open_source(data)}


def open_source(entry: str | Path | Source) -> Source:
    """A source as it is, or the one that reads a file or folder.

    Raises:
        DataError: If there is no such file, or its name does not end as a known format does.
    """
    if not isinstance(entry, str | Path):
        return entry
    path = Path(entry)
    if path.is_dir():
        return TextFolder(path)
    _check_exists(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return JsonLines(path)
    if path.suffix == ".parquet":
        return Parquet(path)
    raise DataError(f"{path}: a file of text ends in .jsonl, .jsonl.gz or .parquet; or give a folder of .txt files.")


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")


def _read_lines(file: Any, path: Path) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: this is no whole gzip file ({error}). Copy or write it again.") from None


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} (0x{content[error.start]:02x}) is no UTF-8. Convert the text to UTF-8."
        ) from None


def _field(row: dict[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise DataError(f"{where}: there is no field {field!r}; there are {', '.join(row) or 'none'}.")
    return _text(row[field], field, where)


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: the field {field!r} must be text, got {value!r}.")
    return value


def _fingerprint(paths: list[Path], *settings: str) -> str:
    """What files hold, whole: a date would change with every copy, and stay with some edits."""
    for path in paths:
        _check_exists(path)
    return _hash([*settings, *(_digest(path) for path in paths)])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _hash(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
