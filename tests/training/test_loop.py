import math

import pytest
import torch
from safetensors.torch import load_file

from moesaic.combiners import ReLU, Routed, Sigmoid, Weighted
from moesaic.data import BatchSampler, PackedDocuments
from moesaic.errors import TrainingError
from moesaic.members import CausalLM, load_network
from moesaic.mixture import Mixture
from moesaic.moe import assemble
from moesaic.testing import save_tiny_checkpoint, tiny_causal_lm
from moesaic.training import (
    Losses,
    SparseLanguageModeling,
    TrainingOptions,
    fit,
    language_modeling,
    mixture_language_modeling,
)
from moesaic.training.loop import clip_gradients


def sampler(batch_size=8):
    tokens = torch.arange(600, dtype=torch.int32) % 23 + 1
    domain = PackedDocuments(tokens, torch.tensor([0]), torch.tensor([600]))
    return BatchSampler([domain, domain], batch_size=batch_size, sequence_length=16, seed=0)


def options(**arguments):
    defaults = {"num_steps": 6, "batch_size": 8, "sequence_length": 16, "num_warmup_steps": 2, "precision": "float32"}
    return TrainingOptions(**(defaults | arguments))


def weights(network):
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_loss():
    network = tiny_causal_lm()
    history = fit(network, sampler(), language_modeling, options(num_steps=30, learning_rate=1e-2))
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].num_tokens == 30 * 8 * 16


def test_training_twice_gives_the_same_bits():
    first, second = tiny_causal_lm(), tiny_causal_lm()
    assert fit(first, sampler(), language_modeling, options()) == fit(second, sampler(), language_modeling, options())
    assert_same(weights(first), weights(second))


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("averaged_share", "optimizer"), [(0, "adamw"), (0.7, "adamw"), (0, "muon")])
@pytest.mark.parametrize("last_step", [1, 2, 3, 5])
def test_a_killed_training_continues_to_the_same_bits(tmp_path, last_step, averaged_share, optimizer):
    stage = options(checkpoint_every=2, averaged_share=averaged_share, optimizer=optimizer)
    whole = tiny_causal_lm()
    expected = fit(whole, sampler(), language_modeling, stage)

    def kill(record):
        if record.step == last_step:
            raise Killed

    arguments = {"checkpoint_folder": tmp_path}
    with pytest.raises(Killed):
        fit(tiny_causal_lm(), sampler(), language_modeling, stage, on_step=kill, **arguments)
    continued = tiny_causal_lm()
    history = fit(continued, sampler(), language_modeling, stage, **arguments)
    assert history == expected
    assert_same(weights(continued), weights(whole))
    assert len(list(tmp_path.iterdir())) == 1  # only the last checkpoint is kept


@pytest.mark.parametrize(
    "make", [lambda: Routed(choice=Sigmoid(2, bias_update_rate=0.01)), lambda: Routed(choice=ReLU(1), space="logit")]
)
def test_a_continued_run_goes_on_with_what_a_choice_has_adapted(members, tmp_path, make):
    def train(**arguments):
        mixture = Mixture(members, make())
        scales = {"members.*": 0.0}
        history = fit(
            mixture,
            sampler(),
            mixture_language_modeling,
            options(checkpoint_every=2, learning_rate_scales=scales),
            **arguments,
        )
        return history, weights(mixture)

    def kill(record):
        if record.step == 3:
            raise Killed

    expected, whole = train()
    with pytest.raises(Killed):
        train(checkpoint_folder=tmp_path, on_step=kill)
    history, continued = train(checkpoint_folder=tmp_path)
    assert history == expected
    assert_same(continued, whole)


def test_accumulated_parts_give_the_loss_of_the_whole_batch():
    whole, parts = tiny_causal_lm(), tiny_causal_lm()
    first = fit(whole, sampler(), language_modeling, options())
    second = fit(parts, sampler(), language_modeling, options(gradient_accumulation_steps=4))
    assert [record.loss for record in first] == pytest.approx([record.loss for record in second], abs=1e-5)


def test_bfloat16_stays_close_to_float32():
    first = fit(tiny_causal_lm(), sampler(), language_modeling, options())
    second = fit(tiny_causal_lm(), sampler(), language_modeling, options(precision="bfloat16"))
    assert second[-1].loss == pytest.approx(first[-1].loss, rel=0.05)


def test_the_weights_of_the_last_steps_are_averaged():
    network, seen = tiny_causal_lm(), []
    averaged = fit(
        network,
        sampler(),
        language_modeling,
        options(averaged_share=0.5),
        on_step=lambda record: seen.append(weights(network)),
    )
    for name, weight in weights(network).items():
        mean = torch.stack([step[name] for step in seen[3:]]).mean(dim=0)
        torch.testing.assert_close(weight, mean)
        assert not torch.equal(weight, seen[-1][name])
    assert averaged == fit(tiny_causal_lm(), sampler(), language_modeling, options())  # the steps are the same


def test_a_scale_of_zero_freezes():
    network = tiny_causal_lm()
    before = weights(network)
    fit(network, sampler(), language_modeling, options(learning_rate_scales={"*": 0.0, "*.mlp.*": 1.0}))
    after = weights(network)
    for name in before:
        assert torch.equal(before[name], after[name]) == (".mlp." not in name)
    assert all(parameter.requires_grad for parameter in network.parameters())  # thawed when training is over


def test_a_scale_lowers_the_step():
    networks = {scale: tiny_causal_lm() for scale in (1.0, 0.1)}
    moved = {}
    for scale, network in networks.items():
        before = weights(network)["lm_head.weight"]
        fit(network, sampler(), language_modeling, options(num_steps=1, learning_rate_scales={"lm_head*": scale}))
        moved[scale] = (weights(network)["lm_head.weight"] - before).abs().max().item()
    assert moved[0.1] == pytest.approx(0.1 * moved[1.0], rel=0.05)


@pytest.mark.parametrize("combiner", [Weighted, Routed])
def test_a_combiner_is_trained_with_its_members_frozen(members, combiner):
    undecided = tiny_causal_lm(seed=9)
    torch.nn.init.zeros_(undecided.lm_head.weight)  # on random tokens, nothing beats giving all the same probability
    mixture = Mixture([*members, CausalLM("undecided", undecided)], combiner())
    before = weights(mixture)
    scales = {"members.*": 0.0}
    fit(mixture, sampler(), language_modeling, options(num_steps=20, learning_rate=5e-2, learning_rate_scales=scales))
    after = weights(mixture)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("members."))
    assert mixture(sampler().batch(0).input_ids).routing.weights.mean(dim=(0, 1)).argmax() == 3


@pytest.fixture
def sparse(tmp_path):
    members = [save_tiny_checkpoint(tmp_path / str(seed), seed=seed) for seed in range(2)]
    return load_network(assemble(members, tmp_path / "sparse"))


def test_a_sparse_mixture_is_trained_with_its_router_losses(sparse):
    objective = SparseLanguageModeling(router_aux_loss_coef=0.1, router_z_loss_coef=0.01, router_domain_loss_coef=0.5)
    history = fit(sparse, sampler(), objective, options(num_steps=12, learning_rate=1e-2))
    parts = history[0].parts
    assert set(parts) == {"nats", "load_balance", "router_z", "router_domain"}
    expected = parts["nats"] + 0.1 * parts["load_balance"] + 0.01 * parts["router_z"] + 0.5 * parts["router_domain"]
    assert history[0].loss == pytest.approx(expected, abs=1e-4)
    assert history[-1].parts["nats"] < history[0].parts["nats"]


def test_only_the_router_is_trained_when_all_else_is_frozen(sparse):
    before = weights(sparse)
    scales = {"*": 0.0, "*.gate.weight": 1.0}
    fit(sparse, sampler(), SparseLanguageModeling(), options(learning_rate_scales=scales))
    after = weights(sparse)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"}


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path):
    def spoil(network, batch):
        losses = language_modeling(network, batch)
        return Losses(losses.total * math.nan, losses.parts)

    with pytest.raises(TrainingError) as error:
        fit(tiny_causal_lm(), sampler(), spoil, options(learning_rate=0.5))
    assert str(error.value) == (
        "Step 1 of 6: the loss is nan at learning rate 0.25. Lower learning_rate (0.5) or raise num_warmup_steps (2); "
        "the last checkpoint is kept."
    )


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError) as error:
        fit(tiny_causal_lm(), sampler(), language_modeling, options(gradient_accumulation_steps=3))
    assert str(error.value) == (
        "batch_size (8) must be a multiple of the number of processes (1) times gradient_accumulation_steps (3)."
    )


def test_freezing_everything_is_refused():
    with pytest.raises(ValueError) as error:
        fit(tiny_causal_lm(), sampler(), language_modeling, options(learning_rate_scales={"*": 0.0}))
    assert str(error.value) == "learning_rate_scales {'*': 0.0} freeze every parameter, so there is nothing to train."


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_gradients_are_clipped_as_pytorch_clips_them(max_norm):
    ours, theirs = tiny_causal_lm(), tiny_causal_lm()
    for network in (ours, theirs):
        language_modeling(network, sampler().batch(0)).total.backward()
    clip_gradients(list(ours.parameters()), max_norm)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    assert all(
        torch.equal(one.grad, other.grad) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


def test_what_is_frozen_has_neither_gradient_nor_optimizer_state(sparse, tmp_path):
    scales = {"*": 0.0, "*.gate.weight": 1.0}
    frozen = []

    def look(record):
        frozen.extend(name for name, parameter in sparse.named_parameters() if parameter.grad is None)

    fit(
        sparse,
        sampler(),
        SparseLanguageModeling(),
        options(num_steps=1, checkpoint_every=1, learning_rate_scales=scales),
        checkpoint_folder=tmp_path,
        on_step=look,
    )
    trained = {name for name, _ in sparse.named_parameters()} - set(frozen)
    assert trained == {"model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"}
    stored = load_file(tmp_path / "checkpoint-00000001" / "optimizer.safetensors")
    assert {name.rpartition(":")[0] for name in stored} == trained
