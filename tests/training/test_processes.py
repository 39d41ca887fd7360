import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from moesaic.data import BatchSampler, Examples, PackedDocuments
from moesaic.members import ModuleMember, load_network
from moesaic.moe import assemble
from moesaic.routed_mixture import FeatureRouter, RoutedMixture
from moesaic.testing import run_in_processes, save_tiny_checkpoint
from moesaic.training import (
    MixtureObjective,
    RouterBalance,
    SparseLanguageModeling,
    TrainingOptions,
    fit,
    fit_jointly,
    fit_router,
    is_main,
    process_group,
)


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


def train_routed(folder, top_k, router_only):
    # Sorted inputs, so that each process sees members in another mix.
    inputs = torch.linspace(-2, 2, 64).unsqueeze(1)
    examples = Examples(inputs, (inputs.squeeze(1).abs() < 1).long())
    torch.manual_seed(0)
    members = [ModuleMember(name, nn.Linear(1, 2)) for name in ("left", "middle", "right")]
    mixture = RoutedMixture(members, FeatureRouter(num_features=1, num_members=3), top_k=top_k)
    options = TrainingOptions(num_steps=6, batch_size=16, learning_rate=0.05, precision="float32", checkpoint_every=0)
    objective = MixtureObjective(balance=RouterBalance(router_aux_loss_coef=0.1, router_z_loss_coef=0.01))
    with process_group():
        train_it = fit_router if router_only else fit_jointly
        train_it(mixture, examples, options, objective=objective)
        if is_main():
            save_file(mixture.state_dict(), folder / "weights.safetensors")


@pytest.mark.parametrize(("top_k", "router_only"), [(None, False), (2, False), (2, True)])
def test_a_routed_mixture_has_the_same_weights_from_two_processes_as_from_one(tmp_path, top_k, router_only):
    train_routed(tmp_path, top_k, router_only)
    alone = load_file(tmp_path / "weights.safetensors")
    run_in_processes(train_routed, tmp_path, top_k, router_only)
    together = load_file(tmp_path / "weights.safetensors")
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=2e-5)


def train_with_few_rows(folder):
    # Two rows a process and three members: each step leaves some member without rows in some process.
    inputs = torch.linspace(-2, 2, 64).unsqueeze(1)
    examples = Examples(inputs, (inputs.squeeze(1).abs() < 1).long())
    torch.manual_seed(0)
    members = [ModuleMember(name, nn.Linear(1, 2)) for name in ("left", "middle", "right")]
    router = FeatureRouter(num_features=1, num_members=3)
    mixture = RoutedMixture(members, router, top_k=1, normalize=False)
    options = TrainingOptions(num_steps=8, batch_size=4, learning_rate=0.05, precision="float32", checkpoint_every=0)
    with process_group():
        fit_jointly(mixture, examples, options, objective=MixtureObjective("competitive"))
        if is_main():
            save_file(mixture.state_dict(), folder / "weights.safetensors")


def test_a_member_may_be_without_rows_in_one_of_the_processes(tmp_path):
    train_with_few_rows(tmp_path)
    alone = load_file(tmp_path / "weights.safetensors")
    run_in_processes(train_with_few_rows, tmp_path)
    together = load_file(tmp_path / "weights.safetensors")
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=2e-5)
