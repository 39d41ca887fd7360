"""Shared by all tests: quiet libraries, no network, and members that are made once."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from transformers.utils import logging

from moesaic.members import CausalLM
from moesaic.testing import tiny_causal_lm, tiny_tokenizer

logging.disable_progress_bar()


@pytest.fixture(scope="session")
def members():
    """Three tiny Llama-shaped members that share a tokenizer."""
    tokenizer = tiny_tokenizer()
    return [
        CausalLM(name, tiny_causal_lm(seed=seed), tokenizer) for seed, name in enumerate(("general", "news", "law"))
    ]
