"""A training step of an encoder-decoder model on sentences, timed in two ways that take turns; no benchmark alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel

from moesaic.data import PairBatch
from moesaic.training import SequenceToSequence, keep_memory_warm, resolve_precision

TOKENS = 2048
STEPS, ROUNDS = 5, 3
LENGTHS = (16, 64, 256)

Step = Callable[[PairBatch], None]


def model() -> Any:
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=8000,
        d_model=128,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        dropout=0.2,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return MarianMTModel(config).train()


def step(network: Any, pairs: PairBatch) -> None:
    """Forward and backward."""
    dtype = resolve_precision("auto", pairs.device)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = SequenceToSequence()(network, pairs).total
    loss.backward()
    network.zero_grad()


def compare(slower: Step, faster: Step) -> list[dict[str, Any]]:
    """The time of one step over that of the other, at several lengths."""
    keep_memory_warm()
    rows = []
    for length in LENGTHS:
        pairs, ratios = batch(length), []
        for round_number in range(ROUNDS + 1):  # the first one warms up
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(STEPS):
                for take, seconds in zip((slower, faster), times, strict=True):
                    started = time.perf_counter()
                    take(pairs)
                    seconds.append(time.perf_counter() - started)
            if round_number:
                ratios.append(statistics.median(times[0]) / statistics.median(times[1]))
        rows.append(
            {
                "tokens of a source": length,
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
        )
    return rows


def batch(length: int) -> PairBatch:
    """Sources and targets of ``length`` tokens, the last fifth of every other source padding."""
    count = TOKENS // length
    source, mask = torch.randint(2, 8000, (count, length)), torch.ones(count, length, dtype=torch.long)
    mask[::2, -max(1, length // 5) :] = 0
    return PairBatch(source * mask, mask, torch.randint(2, 8000, (count, length)), torch.zeros(count, dtype=torch.long))
