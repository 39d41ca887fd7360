"""What does attention cost an encoder-decoder model that trains on sentences, on a CPU?

    python -m benchmarks.short_attention

Each figure is the time of a training step (forward and backward, bfloat16 where the processor multiplies it) with
Transformers' choice, PyTorch's fused attention, over that with attention written out as matrix products; both in the
same run, taking turns: the median over steps, the median of three rounds, and the lowest and the highest round. Above
1, moesaic's choice (:func:`moesaic.training.use_short_attention`) is the faster one.
"""

from __future__ import annotations

from functools import partial

from benchmarks.record import save
from benchmarks.sentence_step import ROUNDS, STEPS, TOKENS, compare, model, step
from moesaic.training import use_short_attention


def main() -> None:
    fused, written_out = model(), model()
    use_short_attention(written_out)
    rows = compare(partial(step, fused), partial(step, written_out))
    save("short_attention", rows, tokens=TOKENS, steps=STEPS, rounds=ROUNDS)


if __name__ == "__main__":
    main()
