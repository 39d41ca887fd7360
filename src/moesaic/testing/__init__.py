"""Tiny models and contract checks, public: use them for your own combiners."""

from moesaic.testing.contracts import check_combiner
from moesaic.testing.tiny import save_tiny_checkpoint, tiny_causal_lm, tiny_tokenizer

__all__ = ["check_combiner", "save_tiny_checkpoint", "tiny_causal_lm", "tiny_tokenizer"]
