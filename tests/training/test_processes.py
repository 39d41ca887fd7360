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


# Sorted inputs, so that each process sees members in another mix.
INPUTS = torch.linspace(-2, 2, 64).unsqueeze(1)
EXAMPLES = Examples(INPUTS, (INPUTS.squeeze(1).abs() < 1).long())
BALANCED = MixtureObjective(balance=RouterBalance(router_aux_loss_coef=0.1, router_z_loss_coef=0.01))
ROUTED = {
    "all members": (fit_jointly, {}, 16, BALANCED),
    "two of three": (fit_jointly, {"top_k": 2}, 16, BALANCED),
    "the router alone": (fit_router, {"top_k": 2}, 16, BALANCED),
    # Two rows a process and three members: each step leaves some member without rows in some process.
    "a member without rows": (fit_jointly, {"top_k": 1, "normalize": False}, 4, MixtureObjective("competitive")),
}


def train_routed(folder):
    with process_group():
        for name, (train_it, arguments, batch_size, objective) in ROUTED.items():
            torch.manual_seed(0)
            members = [ModuleMember(member, nn.Linear(1, 2)) for member in ("left", "middle", "right")]
            mixture = RoutedMixture(members, FeatureRouter(num_features=1, num_members=3), **arguments)
            options = TrainingOptions(
                num_steps=8, batch_size=batch_size, learning_rate=0.05, precision="float32", checkpoint_every=0
            )
            train_it(mixture, EXAMPLES, options, objective=objective)
            if is_main():
                save_file(mixture.state_dict(), folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def routed_weights(tmp_path_factory):
    """Folders of what one process learned, and two together."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    train_routed(alone)
    run_in_processes(train_routed, together)
    return alone, together


@pytest.mark.parametrize("name", ROUTED)
def test_a_routed_mixture_has_the_same_weights_from_two_processes_as_from_one(name, routed_weights):
    alone, together = (load_file(folder / f"{name}.safetensors") for folder in routed_weights)
    assert alone.keys() == together.keys()
    for tensor, weights in alone.items():
        torch.testing.assert_close(together[tensor], weights, rtol=0, atol=2e-5)
