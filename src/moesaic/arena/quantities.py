"""How tables spell numbers."""

from __future__ import annotations


def count(number: float | None) -> str:
    """A count with three digits.

    Example:
        >>> [count(number) for number in (950, 12_345, 1_770_000, 2.5e9, None)]
        ['950', '12.3k', '1.77M', '2.5B', '–']
    """
    if number is None:
        return "–"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def num_bytes(number: float) -> str:
    """A number of bytes with three digits.

    Example:
        >>> [num_bytes(number) for number in (950, 12_345, 1_770_000, 2.5e9)]
        ['950 B', '12.3 kB', '1.77 MB', '2.5 GB']
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} B"


def power(number: float) -> str:
    """A large number as a power of ten.

    Example:
        >>> [power(number) for number in (6.04e13, 0.0)]
        ['6.0e13', '0']
    """
    digits, _, exponent = f"{number:.1e}".partition("e")
    return f"{digits}e{int(exponent)}" if number else "0"


def probability(number: float) -> str:
    """A p-value.

    Example:
        >>> [probability(number) for number in (0.0004, 0.03, 1.0)]
        ['<0.001', '0.030', '1.000']
    """
    return "<0.001" if number < 0.001 else f"{number:.3f}"


def decimals(number: float) -> str:
    """A loss or a share.

    Example:
        >>> decimals(3.14159)
        '3.142'
    """
    return f"{number:.3f}"


def signed(number: float) -> str:
    """A difference.

    Example:
        >>> signed(0.5)
        '+0.500'
    """
    return f"{number:+.3f}"
