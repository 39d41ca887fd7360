"""Shared by all tests: quiet libraries, no network; members, and a run of the whole road, that are made once."""

import json
import os
import random

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Before PyTorch is imported, and for the processes that tests start: two threads each on too few cores cost most of
    # the time of small operations.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

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


RECIPE = """\
# tiny.yaml: the whole road, small
data:
  domains:
    - {name: letters, source: {type: jsonl, path: letters.jsonl}}
    - {name: digits, source: {type: folder, path: digits}}
  sequence_length: 16
  vocab_size: 300
  validation_fraction: 0.1
  test_fraction: 0.2
seed:
  {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
   training: {num_steps: 12, batch_size: 8, learning_rate: 1e-2, num_warmup_steps: 2, checkpoint_every: 4}}
experts:
  training: {num_steps: 6, batch_size: 8, learning_rate: 1e-2, num_warmup_steps: 2}
assemble: {router_tokens: 256}
router: {num_steps: 2, batch_size: 8}
joint: {num_steps: 6, batch_size: 8, learning_rate: 1e-2, num_warmup_steps: 2, checkpoint_every: 3}
arena: {num_resamples: 50, max_tokens: 1024}
"""


def write_recipe(folder, text=RECIPE):
    """The recipe and its text; the same bytes each time."""
    draw = random.Random(0)
    (folder / "digits").mkdir(parents=True)
    with (folder / "letters.jsonl").open("w") as file:
        for _ in range(60):
            file.write(json.dumps({"text": " ".join(draw.choices(["the", "cat", "sat", "on", "mats"], k=30))}) + "\n")
    for number in range(60):
        (folder / "digits" / f"{number}.txt").write_text(" ".join(str(draw.randrange(100)) for _ in range(40)))
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A recipe and its finished run; not to be changed."""
    import moesaic

    folder = tmp_path_factory.mktemp("finished")
    path = write_recipe(folder)
    return path, moesaic.run(path, folder=folder / "run", quiet=True)
