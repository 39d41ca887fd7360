"""Words by which recipes and saved mixtures know classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar


class Named(Protocol):
    """A class that has its word."""

    word: ClassVar[str]


_T = TypeVar("_T", bound=Named)
_Class = TypeVar("_Class", bound=type[Named])


class Words(dict[str, type[_T]]):
    """The classes of one kind by their words.

    Args:
        kind: What they are, as errors say it.

    Example:
        >>> animals = Words("animal")
        >>> @animals.register("cat")
        ... class Cat: pass
        >>> animals.build("dog")
        Traceback (most recent call last):
        ValueError: No animal is called 'dog'; there are cat.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, word: str) -> Callable[[_Class], _Class]:
        """Make a class known by ``word``.

        Raises:
            ValueError: If another class has that word.
        """

        def add(named: _Class) -> _Class:
            if word in self:
                raise ValueError(f"The word {word!r} already names the {self.kind} {self[word].__name__}.")
            named.word = word
            self[word] = named  # type: ignore[assignment]  # of this kind, which a decorator's type cannot say
            return named

        return add

    def build(self, type: str, **arguments: Any) -> _T:
        """Make what a word names, from the constructor's arguments.

        Raises:
            ValueError: If no class has that word, or the arguments do not fit it.
        """
        if type not in self:
            raise ValueError(f"No {self.kind} is called {type!r}; there are {', '.join(sorted(self))}.")
        return self[type](**arguments)
