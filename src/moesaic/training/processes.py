"""Data parallelism over processes started by ``torchrun``; one process needs nothing of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did, for the duration of a block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # Stages that one process does alone, such as measuring, may take long; the others wait for it.
    distributed.init_process_group(backend, timeout=timedelta(days=7))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def num_processes() -> int:
    """How many processes share the work."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and prints."""
    return rank() == 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()


def training_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
