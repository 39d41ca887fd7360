"""Tiny models, contract checks and a runner for several processes, public: use them for your own combiners."""

from moesaic.testing.contracts import check_combiner
from moesaic.testing.module_contracts import check_module_combiner
from moesaic.testing.processes import run_in_processes
from moesaic.testing.router_contracts import check_router
from moesaic.testing.text_contracts import check_text_combiner
from moesaic.testing.tiny import (
    save_tiny_checkpoint,
    tiny_causal_lm,
    tiny_mixtral,
    tiny_seq2seq_lm,
    tiny_span_model,
    tiny_tokenizer,
)

__all__ = [
    "check_combiner",
    "check_module_combiner",
    "check_router",
    "check_text_combiner",
    "run_in_processes",
    "save_tiny_checkpoint",
    "tiny_causal_lm",
    "tiny_mixtral",
    "tiny_seq2seq_lm",
    "tiny_span_model",
    "tiny_tokenizer",
]
