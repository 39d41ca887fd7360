import torch
from torch import nn

from moesaic.testing import tiny_causal_lm
from moesaic.training import TrainingOptions
from moesaic.training.optimizer import build_optimizers, set_learning_rate


def parameters_of(optimizer, network):
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {names[parameter] for group in optimizer.param_groups for parameter in group["params"]}


def test_adamw_has_every_parameter_where_nothing_else_is_asked_for():
    network = tiny_causal_lm()
    [adamw] = build_optimizers(network, TrainingOptions(num_steps=1))
    assert isinstance(adamw, torch.optim.AdamW)
    assert parameters_of(adamw, network) == {name for name, _ in network.named_parameters()}


def test_muon_has_the_matrices_of_layers_and_adamw_the_rest():
    network = tiny_causal_lm()
    adamw, muon = build_optimizers(network, TrainingOptions(num_steps=1, optimizer="muon"))
    of_muon, of_adamw = parameters_of(muon, network), parameters_of(adamw, network)
    assert of_muon == {name for name, _ in network.named_parameters() if "_proj" in name}
    assert of_adamw == {name for name, _ in network.named_parameters() if "_proj" not in name}
    assert any("embed_tokens" in name for name in of_adamw)


def test_an_output_layer_of_its_own_is_none_of_muons():
    network = tiny_causal_lm()
    network.lm_head.weight = nn.Parameter(network.lm_head.weight.detach().clone())  # tied before
    adamw, muon = build_optimizers(network, TrainingOptions(num_steps=1, optimizer="muon"))
    assert "lm_head.weight" in parameters_of(adamw, network)
    assert "lm_head.weight" not in parameters_of(muon, network)


def test_muon_alone_takes_the_steps_of_a_network_of_matrices():
    network = nn.Linear(4, 4, bias=False)
    [muon] = build_optimizers(network, TrainingOptions(num_steps=1, optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon)


def test_muons_first_step_is_as_long_as_adamws_commonly_are():
    network = nn.Linear(64, 64, bias=False)
    before = network.weight.detach().clone()
    options = TrainingOptions(num_steps=1, optimizer="muon", learning_rate=0.01, weight_decay=0.0, num_warmup_steps=0)
    optimizers = build_optimizers(network, options)
    set_learning_rate(optimizers, 0, options)
    network(torch.randn(200, 64)).square().mean().backward()
    optimizers[0].step()
    # 0.2 times the learning rate, of singular values that five iterations leave between 0.7 and 1.2
    rms = (network.weight - before).square().mean().sqrt().item()
    assert 0.7 < rms / (0.2 * 0.01) < 1.2


def test_frozen_and_slowed_parameters_stay_so_under_muon():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[0].requires_grad_(False)
    options = TrainingOptions(num_steps=1, optimizer="muon", learning_rate=0.5, learning_rate_scales={"1.weight": 0.1})
    adamw, muon = build_optimizers(network, options)
    assert parameters_of(muon, network) == {"1.weight"}
    assert parameters_of(adamw, network) == {"1.bias"}
    set_learning_rate([adamw, muon], 0, TrainingOptions(num_steps=1, learning_rate=0.5, num_warmup_steps=0))
    assert [group["lr"] for optimizer in (adamw, muon) for group in optimizer.param_groups] == [0.5, 0.05]
