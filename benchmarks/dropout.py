"""What do the random numbers of dropout cost an encoder-decoder model that trains on sentences, on a CPU?

    python -m benchmarks.dropout

Each figure is the time of a training step (forward and backward, bfloat16 where the processor multiplies it) with
PyTorch's dropout over that within :class:`moesaic.training.ByteDropout`; both in the same run, taking turns: the median
over steps, the median of three rounds, and the lowest and the highest round. Above 1, moesaic's is the faster one.
"""

from __future__ import annotations

from functools import partial

from benchmarks.record import save
from benchmarks.sentence_step import ROUNDS, STEPS, TOKENS, compare, model, step
from moesaic.data import PairBatch
from moesaic.training import ByteDropout, use_short_attention


def main() -> None:
    network = model()
    use_short_attention(network)

    def step_with_bytes(pairs: PairBatch) -> None:
        with ByteDropout():
            step(network, pairs)

    save("dropout", compare(partial(step, network), step_with_bytes), tokens=TOKENS, steps=STEPS, rounds=ROUNDS)


if __name__ == "__main__":
    main()
