"""What members are called, and where they stand by their names."""

from __future__ import annotations

from collections.abc import Sequence


def check_names(names: Sequence[str]) -> None:
    """Refuse members that cannot be told apart.

    Raises:
        ValueError: If there is no member, or two have one name.
    """
    if not names:
        raise ValueError("A mixture needs at least one member, got none.")
    for name in names:
        if list(names).count(name) > 1:
            raise ValueError(f"Two members are called {name!r}; give each its own name.")


def position_of(name: str, names: Sequence[str]) -> int:
    """Where a member stands among the others.

    Raises:
        ValueError: If no member has that name.
    """
    if name not in names:
        raise ValueError(f"No member is called {name!r}; there are {', '.join(names)}.")
    return list(names).index(name)


def positions_without(name: str, names: Sequence[str]) -> list[int]:
    """Where the members stand that are left without one.

    Raises:
        ValueError: If no member has that name, or it is the only one.
    """
    removed = position_of(name, names)
    if len(names) == 1:
        raise ValueError(f"{name!r} is the only member, and a mixture needs one. Add another first, or replace it.")
    return [position for position in range(len(names)) if position != removed]
