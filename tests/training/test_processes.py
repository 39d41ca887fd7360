import json

import pytest
import torch

from moesaic.data import BatchSampler, PackedDocuments
from moesaic.members import load_network
from moesaic.moe import assemble
from moesaic.testing import run_in_processes, save_tiny_checkpoint
from moesaic.training import SparseLanguageModeling, TrainingOptions, fit, is_main, process_group


def train(folder):
    # Two domains of different tokens: each process sees another mix, and only counts over both see the whole batch.
    domains = [
        PackedDocuments(torch.arange(600, dtype=torch.int32) % 23 + start, torch.tensor([0]), torch.tensor([600]))
        for start in (1, 100)
    ]
    sampler = BatchSampler(domains, batch_size=8, sequence_length=16, seed=0)
    options = TrainingOptions(num_steps=4, batch_size=8, sequence_length=16, precision="float32", num_warmup_steps=1)
    with process_group():
        objective = SparseLanguageModeling(router_aux_loss_coef=1.0)
        history = fit(load_network(folder / "sparse"), sampler, objective, options)
        if is_main():
            (folder / "losses.json").write_text(json.dumps([record.loss for record in history]))


def test_two_processes_have_the_losses_of_one(tmp_path):
    members = [save_tiny_checkpoint(tmp_path / str(seed), seed=seed) for seed in range(2)]
    assemble(members, tmp_path / "sparse")
    train(tmp_path)
    alone = json.loads((tmp_path / "losses.json").read_text())
    run_in_processes(train, tmp_path)
    together = json.loads((tmp_path / "losses.json").read_text())
    assert together == pytest.approx(alone, abs=2e-5)
