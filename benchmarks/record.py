"""What every benchmark does with its figures."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

RESULTS = Path(__file__).parent / "results"


def save(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Print rows as a Markdown table and write them to ``results/NAME.json`` with what they were measured on.

    Args:
        name: The benchmark.
        rows: One mapping a row; all have the same keys.
        facts: Anything else that belongs to the record, such as seeds and sizes.
    """
    print(markdown(rows))
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": name, "date": date.today().isoformat(), "machine": machine(), **facts, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_show(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Versions and hardware."""
    model = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{package: version(package) for package in ("moesaic", "torch", "transformers", "safetensors")},
    }


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _show(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
