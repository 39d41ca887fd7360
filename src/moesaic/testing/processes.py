"""Run a function in several processes that form a group, on one machine, without a GPU."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn


def run_in_processes(function: Callable[..., None], *arguments: Any, num_processes: int = 2) -> None:
    """Call a function in each of several processes, as ``torchrun`` would start them.

    Args:
        function: What to run; it and its arguments must be importable, as processes are spawned.
        arguments: What it is given.
        num_processes: How many.

    Raises:
        torch.multiprocessing.ProcessRaisedException: If it fails in one of them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_start, (function, arguments, num_processes, port), nprocs=num_processes)


def _start(rank: int, function: Callable[..., None], arguments: tuple[Any, ...], num_processes: int, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
    }
    torch.set_num_threads(1)
    function(*arguments)
