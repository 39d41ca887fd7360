"""Memory that stays with the process from one training step to the next."""

from __future__ import annotations

import ctypes
import functools

# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

TOP_PAD = 2**26
"""Bytes asked of the system at once where memory runs out: 64 MB."""


@functools.cache
def keep_memory_warm() -> bool:
    """Have freed memory kept for reuse rather than given back to the system, on Linux with glibc.

    By default glibc maps a large tensor's memory anew each time and unmaps it when the tensor dies. The system hands
    out such memory page by page, cleared, as it is first written to, which takes longer than many a kernel takes to
    fill it. A training step makes the same tensors as the step before, so it may as well have the same memory.

    It holds for the whole process, and for as long as that lives: its memory stays at the highest that was ever in
    use at once. A second call does nothing more.

    Returns:
        Whether it took effect. Elsewhere (macOS, Windows, musl) nothing is changed.
    """
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # TypeError: Windows has no library of the process itself
        return False
    if not hasattr(libc, "gnu_get_libc_version"):  # another C library may have a mallopt that means something else
        return False
    # -1 turns trimming off. A large number would not: glibc trims again whenever that much is free at the top.
    wanted = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: TOP_PAD}
    return all(libc.mallopt(name, value) == 1 for name, value in wanted.items())
