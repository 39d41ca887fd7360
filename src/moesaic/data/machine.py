"""The text that is already on this machine: nothing is downloaded, and nothing that is read is run."""

from __future__ import annotations

import ast
import gettext
import inspect
import re
import struct
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from moesaic.data.sources import _hash
from moesaic.errors import DataError

MachineKind = Literal["python_source", "docstrings", "cpp_headers", "messages", "licences"]

ENOUGH_BYTES = 400_000
"""With less text than this a kind counts as absent: too little to train an expert on."""

DOCUMENT_BYTES = 1_500
"""Longer texts are cut at natural places into documents of about this length."""

_DOCSTRING = re.compile(r'^[ \t]*[rR]?"""(.+?)"""', re.MULTILINE | re.DOTALL)

LOCALE_FOLDERS = (Path("/usr/share/locale"), Path("/usr/local/share/locale"), Path(sys.prefix, "share/locale"))


@dataclass(frozen=True)
class MachineText:
    """Text that this machine carries anyway.

    Attributes:
        kind: ``python_source`` is the standard library; ``docstrings`` English prose from the documentation in
            installed packages; ``cpp_headers`` the headers that come with PyTorch; ``messages`` the operating system's
            message catalogues in ``language``; ``licences`` the licences of installed packages.
        language: The language of the messages, such as ``de``.
        fallback: The kind to read instead, with a warning, where there is too little of the first.
    """

    kind: MachineKind
    language: str | None = None
    fallback: MachineKind | None = None

    def documents(self) -> Iterator[str]:
        """Read the documents.

        Raises:
            DataError: If there is too little text of this kind and no other kind to fall back on.
        """
        reader = self._reader(self.kind)
        if _has_enough(reader):
            yield from reader()
            return
        lacking = f"This machine has less than {ENOUGH_BYTES:,} bytes of {self._description}"
        if self.fallback is None:
            raise DataError(f"{lacking}. Choose another kind, or name one as fallback.")
        warnings.warn(f"{lacking}; reading {self.fallback} instead.", stacklevel=2)
        yield from MachineText(self.fallback).documents()

    def fingerprint(self) -> str:
        """The versions of what carries the text."""
        carriers = ("numpy", "torch", "transformers")
        versions = [metadata.version(carrier) for carrier in carriers]
        catalogues = [str(path) for path in _catalogues(self.language)] if self.kind == "messages" else []
        return _hash([self.kind, self.language, self.fallback, sys.version, versions, catalogues])

    @property
    def _description(self) -> str:
        return f"{self.kind} in {self.language}" if self.language else self.kind

    def _reader(self, kind: MachineKind) -> Callable[[], Iterator[str]]:
        if kind == "messages":
            if self.language is None:
                raise DataError("Machine text of kind messages needs a language, such as de.")
            return partial(_messages, self.language)
        return _READERS[kind]


def _has_enough(reader: Callable[[], Iterator[str]]) -> bool:
    num_bytes = 0
    for document in reader():
        num_bytes += len(document.encode())
        if num_bytes >= ENOUGH_BYTES:
            return True
    return False


def _python_source() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3", "__pycache__"}
    for path in sorted(library.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(library).parts):
            yield from _pieces(_read(path), "\n\n")


def _docstrings() -> Iterator[str]:
    topics = _read(Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py")
    for node in ast.walk(ast.parse(topics)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _pieces(node.value, "\n\n")
    packages = [Path(sysconfig.get_path("purelib")) / name for name in ("numpy", "torch", "transformers")]
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            if "test" not in path.name and "tests" not in path.parts:
                yield from _docstrings_of(_read(path))


def _docstrings_of(source: str) -> Iterator[str]:
    # A pattern rather than a parser: parsing whole packages takes longer than training an expert.
    for match in _DOCSTRING.finditer(source):
        text = inspect.cleandoc(match[1])
        if len(text) > 200:
            yield from _pieces(text, "\n\n")


def _cpp_headers() -> Iterator[str]:
    include = Path(sysconfig.get_path("purelib")) / "torch" / "include"
    # Not ATen: most of it is generated, and a model would learn its one template rather than C++.
    for folder in ("c10", "torch", "pybind11"):
        for path in sorted((include / folder).rglob("*.h")):
            yield from _pieces(_read(path), "\n\n")


def _messages(language: str) -> Iterator[str]:
    for path in _catalogues(language):
        try:
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)
        except (OSError, UnicodeDecodeError, ValueError, struct.error):
            continue  # a damaged catalogue is one source less
        messages = vars(catalogue)["_catalog"]  # gettext looks one message up; it has no way to list them all
        translated = [text for key, text in messages.items() if key and isinstance(text, str)]
        yield from _pieces("\n".join(translated), "\n")


def _catalogues(language: str | None) -> list[Path]:
    folders = [folder / str(language) / "LC_MESSAGES" for folder in LOCALE_FOLDERS]
    return [path for folder in folders for path in sorted(folder.glob("*.mo"))]


def _licences() -> Iterator[str]:
    words = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*")):
        if path.suffix != ".py" and any(word in path.name.upper() for word in words) and path.is_file():
            yield from _pieces(_read(path), "\n\n")


_READERS: dict[str, Callable[[], Iterator[str]]] = {
    "python_source": _python_source,
    "docstrings": _docstrings,
    "cpp_headers": _cpp_headers,
    "licences": _licences,
}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _pieces(text: str, separator: str) -> Iterator[str]:
    """Cut a text at a separator into documents of about ``DOCUMENT_BYTES``."""
    piece: list[str] = []
    length = 0
    for part in text.split(separator):
        piece.append(part)
        length += len(part)
        if length >= DOCUMENT_BYTES:
            yield separator.join(piece)
            piece, length = [], 0
    if any(part.strip() for part in piece):
        yield separator.join(piece)
