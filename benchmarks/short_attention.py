"""What does attention cost an encoder-decoder model that trains on sentences, on a CPU?

    python -m benchmarks.short_attention

Each figure is the time of a training step (forward and backward, bfloat16 where the processor multiplies it) with
Transformers' choice, PyTorch's fused attention, over that with attention written out as matrix products; both in the
same run, taking turns: the median over steps, the median of three rounds, and the lowest and the highest round. Above
1, moesaic's choice (:func:`moesaic.training.use_short_attention`) is the faster one.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel

from benchmarks.record import save
from moesaic.data import PairBatch
from moesaic.training import SequenceToSequence, keep_memory_warm, resolve_precision, use_short_attention

TOKENS = 2048
STEPS, ROUNDS = 5, 3
LENGTHS = (16, 64, 256)


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
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return MarianMTModel(config).train()


def batch(length: int) -> PairBatch:
    """Sources and targets of ``length`` tokens, the last fifth of every other source padding."""
    count = TOKENS // length
    source, mask = torch.randint(2, 8000, (count, length)), torch.ones(count, length, dtype=torch.long)
    mask[::2, -max(1, length // 5) :] = 0
    return PairBatch(source * mask, mask, torch.randint(2, 8000, (count, length)), torch.zeros(count, dtype=torch.long))


def step_seconds(network: Any, pairs: PairBatch) -> float:
    dtype = resolve_precision("auto", pairs.device)
    started = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = SequenceToSequence()(network, pairs).total
    loss.backward()
    seconds = time.perf_counter() - started
    network.zero_grad()
    return seconds


def main() -> None:
    keep_memory_warm()
    fused, written_out = model(), model()
    use_short_attention(written_out)
    rows = []
    for length in LENGTHS:
        pairs, ratios = batch(length), []
        for round_number in range(ROUNDS + 1):  # the first one warms up
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(STEPS):
                for network, seconds in zip((fused, written_out), times, strict=True):
                    seconds.append(step_seconds(network, pairs))
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
    save("short_attention", rows, tokens=TOKENS, steps=STEPS, rounds=ROUNDS)


if __name__ == "__main__":
    main()
