"""The check behind ``--jaxtyping-packages``: do tensors have the shapes that signatures promise?

Other types are left to mypy, so that tests can hand over what a signature forbids and see the error that users get.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have beartype check the parameters and results that are tensors, and nothing else."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _mentions_tensor(hint)}
    return beartype(function)


def _mentions_tensor(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_mentions_tensor(part) for part in get_args(hint))
