"""Is ``moesaic.assemble`` as quick and as light as ``mergekit-moe`` on four checkpoints of a billion parameters?

    python -m venv MERGEKIT && MERGEKIT/bin/pip install torch==2.13.0 mergekit==0.1.5
    python -m benchmarks.assemble --mergekit MERGEKIT

Both make a Mixtral of four Llama-shaped checkpoints with random bfloat16 weights and random routers, in processes of
their own, taking turns. ``mergekit-moe`` takes attention, norms and embeddings from the base model, so moesaic is
measured doing the same, and also averaging them. Memory is the highest resident set of the process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.record import save
from moesaic.testing import tiny_tokenizer

NUM_MEMBERS = 4


def write_members(members: list[Path], layers: int) -> None:
    """Llama-shaped checkpoints of about 61 million parameters a layer, and 66 million besides."""
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    for seed, member in enumerate(members):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        network.save_pretrained(member)
        tiny_tokenizer().save_pretrained(member)
    print(f"{len(members)} members of {network.num_parameters():,} parameters", flush=True)


def measure(command: list[str]) -> tuple[float, float]:
    """Wall time in seconds and highest resident set in gigabytes of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed:\n{errors.decode()[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9


def commands(members: list[Path], output: Path, mergekit: Path, config: Path) -> dict[str, list[str]]:
    """What each way runs."""
    listed = "".join(f"  - {{source_model: {member}, positive_prompts: [a]}}\n" for member in members)
    config.write_text(f"base_model: {members[0]}\ngate_mode: random\ndtype: bfloat16\nexperts:\n{listed}")
    ours = "import moesaic, sys; moesaic.assemble(sys.argv[3:], sys.argv[1], shared=sys.argv[2])"
    paths = list(map(str, members))
    return {
        "moesaic, shared from the base": [sys.executable, "-c", ours, str(output), members[0].name, *paths],
        "moesaic, shared averaged": [sys.executable, "-c", ours, str(output), "average", *paths],
        "mergekit-moe 0.1.5": [str(mergekit / "bin" / "mergekit-moe"), str(config), str(output)],
    }


def copy_seconds(members: list[Path], output: Path) -> float:
    """How long the disk takes to copy the members' weights: what assembly cannot beat by much."""
    started = time.perf_counter()
    output.mkdir()
    for member in members:
        shutil.copyfile(member / "model.safetensors", output / member.name)
    os.sync()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, required=True, help="A virtual environment with mergekit 0.1.5.")
    parser.add_argument("--layers", type=int, default=15, help="Layers of a member; 15 are a billion parameters.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        members = [folder / f"member-{seed}" for seed in range(NUM_MEMBERS)]
        # In a process of its own: a command's peak counts that of the process that starts it.
        writer = multiprocessing.get_context("spawn").Process(target=write_members, args=(members, arguments.layers))
        writer.start()
        writer.join()
        ways = commands(members, folder / "output", arguments.mergekit, folder / "mergekit.yaml")
        figures: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        copies = []
        for _ in range(arguments.rounds):
            for way, command in ways.items():
                figures[way].append(measure(command))
                print(f"{way}: {figures[way][-1][0]:.1f} s, {figures[way][-1][1]:.2f} GB", flush=True)
                shutil.rmtree(folder / "output")
            copies.append(copy_seconds(members, folder / "copy"))
            shutil.rmtree(folder / "copy")
    peer = statistics.median(seconds for seconds, _ in figures["mergekit-moe 0.1.5"])
    rows: list[dict[str, Any]] = [
        {
            "way": way,
            "seconds": statistics.median(seconds for seconds, _ in measured),
            "fastest": min(seconds for seconds, _ in measured),
            "slowest": max(seconds for seconds, _ in measured),
            "time / mergekit-moe": statistics.median(seconds for seconds, _ in measured) / peer,
            "peak memory (GB)": max(memory for _, memory in measured),
        }
        for way, measured in figures.items()
    ]
    save("assemble", rows, layers=arguments.layers, rounds=arguments.rounds, copy_seconds=statistics.median(copies))


if __name__ == "__main__":
    main()
