"""How long does a training step of a small sparse model take on a CPU, and what makes it shorter?

    pip install accelerate
    python -m benchmarks.training_step

The model is a Mixtral of 22 million parameters. It is trained by moesaic's ``fit``; beside it stand the dense model of
equal active multiplications in the same loop, and the same sparse model under Transformers' Trainer with the same
optimizer and tokens. Then each ingredient of moesaic's step is taken out alone.

Each figure is a median over steps, after a few that are not counted. Each arm runs in a process of its own, since how
memory is kept holds for a whole process; arms take turns, in one order and then in the other, and a ratio compares runs
of the same round. Given are the median round, the lowest and the highest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import moesaic.experts  # noqa: F401 - registers the kernel
from benchmarks.record import save
from moesaic.data import BatchSampler, PackedDocuments
from moesaic.training import SparseLanguageModeling, TrainingOptions, fit, language_modeling, loop, objectives

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EXPERT_SIZE, NUM_EXPERTS, TOP_K = 512, 8, 2
BATCH, POSITIONS = 16, 256
WARMUP, STEPS, ROUNDS, SEED, THREADS = 2, 15, 4, 0, 2

SPARSE, DENSE, TRAINER = "moesaic, sparse", "moesaic, dense", "Trainer, sparse"
WITHOUT_WARM_MEMORY = "moesaic, sparse, memory given back"
WITHOUT_CHUNKS = "moesaic, sparse, all logits at once"
WITH_GROUPED = "moesaic, sparse, grouped_mm kernel"
ARMS = [SPARSE, DENSE, TRAINER, WITHOUT_WARM_MEMORY, WITHOUT_CHUNKS, WITH_GROUPED]
PRECISIONS = ["float32", "bfloat16"]


def sparse_network(kernel: str) -> Any:
    config = MixtralConfig(
        **SIZES,
        intermediate_size=EXPERT_SIZE,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=TOP_K,
        router_aux_loss_coef=0.01,
        output_router_logits=True,  # what makes Trainer add the load-balance loss
    )
    network = AutoModelForCausalLM.from_config(config)
    network.set_experts_implementation(kernel)
    return network


def dense_network() -> Any:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, intermediate_size=TOP_K * EXPERT_SIZE))


def sampler() -> BatchSampler:
    tokens = torch.randint(SIZES["vocab_size"], (500_000,), generator=torch.Generator().manual_seed(SEED))
    packed = PackedDocuments(tokens.int(), torch.tensor([0]), torch.tensor([0]))
    return BatchSampler([packed], BATCH, POSITIONS, SEED)


def run_moesaic(arm: str, precision: Any, num_steps: int, tick: Callable[[], None]) -> float:
    """Train in moesaic's loop; returns the last loss."""
    taken_out: dict[str, Any] = {
        WITHOUT_WARM_MEMORY: mock.patch.object(loop, "keep_memory_warm"),
        WITHOUT_CHUNKS: mock.patch.object(objectives, "has_plain_head", return_value=False),
    }
    kernel = "grouped_mm" if arm == WITH_GROUPED else "moesaic"
    network = dense_network() if arm == DENSE else sparse_network(kernel)
    objective = language_modeling if arm == DENSE else SparseLanguageModeling()
    options = TrainingOptions(
        num_steps=num_steps, batch_size=BATCH, sequence_length=POSITIONS, precision=precision, checkpoint_every=0
    )
    with taken_out.get(arm, contextlib.nullcontext()):
        return fit(network, sampler(), objective, options, on_step=lambda record: tick())[-1].loss


def run_trainer(precision: str, num_steps: int, tick: Callable[[], None]) -> float:
    """Train with Transformers' Trainer and its own choice of kernel; returns the mean loss."""

    class Tick(TrainerCallback):
        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            tick()

    options = TrainingOptions(num_steps=num_steps)
    batches = [sampler().batch(step).input_ids for step in range(num_steps)]
    windows = [{"input_ids": row, "labels": row} for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=num_steps,
            per_device_train_batch_size=BATCH,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=options.num_warmup_steps,
            optim="adamw_torch_fused",
            adam_beta2=0.95,
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            bf16=precision == "bfloat16",
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(sparse_network("grouped_mm"), arguments, train_dataset=windows, callbacks=[Tick()])
        return trainer.train().training_loss


def measure_here(arm: str, precision: str, num_steps: int, threads: int) -> dict[str, Any]:
    """Run one arm in this process."""
    torch.set_num_threads(threads)
    set_seed(SEED)
    moments = []

    def tick() -> None:
        moments.append(time.perf_counter())

    total = WARMUP + num_steps
    loss = run_trainer(precision, total, tick) if arm == TRAINER else run_moesaic(arm, precision, total, tick)
    counted = moments[-num_steps - 1 :]
    seconds = [end - start for start, end in pairwise(counted)]
    return {"milliseconds": 1000 * statistics.median(seconds), "loss": loss}


def measure(arm: str, precision: str, num_steps: int, threads: int) -> dict[str, Any]:
    """Run one arm in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--arm", arm, "--precision", precision]
    command += ["--steps", str(num_steps), "--threads", str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    print(f"{precision}, {arm}: {result['milliseconds']:.0f} ms", file=sys.stderr, flush=True)
    return result


def rows(rounds: list[dict[str, dict[str, Any]]], precision: str) -> list[dict[str, Any]]:
    """One row an arm, from what was measured in each round."""
    result = []
    for arm in rounds[0]:
        times = [measured[arm]["milliseconds"] for measured in rounds]
        ratios = [measured[arm]["milliseconds"] / measured[SPARSE]["milliseconds"] for measured in rounds]
        median = statistics.median(times)
        result.append(
            {
                "arm": arm,
                "precision": precision,
                "milliseconds per step": median,
                "tokens per second": BATCH * POSITIONS / median * 1000,
                "time / moesaic's": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
        )
    return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps that are counted")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="an even number has either order equally often")
    parser.add_argument("--threads", type=int, default=THREADS, help="no more than there are idle cores")
    parser.add_argument("--arm", choices=ARMS, help="measure this one alone, in this process, and save nothing")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of --arm")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.arm:
        print(json.dumps(measure_here(given.arm, given.precision, given.steps, given.threads)))
        return
    if find_spec("accelerate") is None:
        sys.exit("Transformers' Trainer needs accelerate, which moesaic does not: pip install accelerate")
    table, losses = [], {}
    for precision in PRECISIONS:
        rounds = []
        for number in range(given.rounds):
            order = ARMS if number % 2 == 0 else ARMS[::-1]
            measured = {arm: measure(arm, precision, given.steps, given.threads) for arm in order}
            rounds.append({arm: measured[arm] for arm in ARMS})
        table += rows(rounds, precision)
        losses[precision] = {arm: rounds[0][arm]["loss"] for arm in ARMS if arm != TRAINER}
    sizes = SIZES | {"expert_size": EXPERT_SIZE, "num_experts": NUM_EXPERTS, "num_experts_per_tok": TOP_K}
    save(
        "training_step",
        table,
        sizes=sizes,
        tokens_per_step=BATCH * POSITIONS,
        steps=given.steps,
        rounds=given.rounds,
        threads=given.threads,
        last_losses=losses,
        seed=SEED,
    )


if __name__ == "__main__":
    main()
