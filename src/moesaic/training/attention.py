"""Which attention kernel short sequences are trained with."""

from __future__ import annotations

from transformers import PreTrainedModel

from moesaic.training.processes import training_device


def use_short_attention(network: PreTrainedModel) -> None:
    """On a CPU, have attention written out as matrix products instead of PyTorch's fused kernel.

    The fused kernel's backward pass works in blocks that a sentence does not fill: for an encoder-decoder model of
    width 128 on captions it took half of a training step (``python -m benchmarks.short_attention``). Long sequences and
    other devices are better off with the fused kernel. The choice is the network's in memory; it is not saved.

    Args:
        network: A model, or a mixture of whole models, which are set one by one.
    """
    if training_device().type == "cpu":
        for part in (network, *getattr(network, "members", ())):
            part.set_attn_implementation("eager")
