import subprocess
import sys
from pathlib import Path

import pytest
import torch
from experts.models import FAMILIES, network_of
from experts.reference import relative_error
from torch import nn
from torch.utils.checkpoint import checkpoint

import moesaic.experts
from moesaic.experts import grouped, layer
from moesaic.testing import tiny_mixtral


def loss_and_gradients(network, implementation, **kwargs):
    network.set_experts_implementation(implementation)
    network.zero_grad()
    tokens = torch.arange(60).view(2, 30) % 200
    output = network(input_ids=tokens, labels=tokens, use_cache=False, **kwargs)
    output.loss.backward()
    experts = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return output.logits.detach(), experts


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_the_same_on_these_kernels(family):
    network = network_of(family)
    logits, gradients = loss_and_gradients(network.double(), "eager")
    ours, our_gradients = loss_and_gradients(network.float(), "moesaic")
    assert relative_error(ours, logits) < 5e-6
    assert gradients.keys() == our_gradients.keys()
    assert any("experts" in name for name in gradients)
    for name, gradient in gradients.items():
        assert relative_error(our_gradients[name], gradient) < 2e-4, name


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_under_autocast_products_are_bfloat16_and_gradients_are_not(family):
    network = network_of(family)
    expected, _ = loss_and_gradients(network, "eager")
    with torch.autocast("cpu", torch.bfloat16):
        logits, our_gradients = loss_and_gradients(network, "moesaic")
    assert 1e-5 < relative_error(logits, expected) < 0.05
    assert {gradient.dtype for gradient in our_gradients.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_run(dtype):
    network = network_of("olmoe")
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        expected = network(tokens).logits
        network.set_experts_implementation("moesaic")
        logits = network.to(dtype)(tokens).logits
    assert logits.dtype == dtype
    # Rounding the weights and every layer in between, not this kernel, makes nearly all of the difference.
    assert relative_error(logits, expected) < 0.1


@pytest.mark.parametrize("check", ["compile mixtral", "compile gpt_oss", "memory grouped", "memory looped"])
def test_in_a_process_without_shape_checks(check):
    """Shape checks cannot be compiled, and would take most of the time of ten thousand small calls."""
    script = Path(__file__).parent / "without_shape_checks.py"
    result = subprocess.run([sys.executable, script, *check.split()], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_layer_can_run_twice_under_gradient_checkpointing():
    network = tiny_mixtral()
    _, expected = loss_and_gradients(network, "moesaic")
    network.train()
    network.activation_checkpointing_enable()
    _, gradients = loss_and_gradients(network, "moesaic")
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient)


def test_two_uses_of_one_layer_add_up():
    experts = tiny_mixtral().model.layers[0].mlp.experts
    experts.config._experts_implementation = "moesaic"
    states = torch.randn(6, 32)
    index, weights = torch.randint(0, 4, (6, 2)), torch.rand(6, 2)
    once = torch.autograd.grad(experts(states, index, weights).sum(), experts.down_proj)[0]
    twice = experts(states, index, weights) + checkpoint(experts, states, index, weights, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(twice.sum(), experts.down_proj)[0], 2 * once)


def test_sentinels_are_left_out_where_experts_have_biases():
    experts = network_of("gpt_oss").model.layers[0].mlp.experts
    states, weights = torch.randn(5, 32), torch.rand(5, 2)
    index = torch.tensor([[0, 6], [6, 6], [3, 1], [5, 6], [2, 2]])
    kept = torch.where(index == 6, 0.0, weights)
    expected = experts.forward.__wrapped__(experts, states, index.clamp_max(5), kept)
    torch.testing.assert_close(layer.experts_forward(experts, states, index, weights), expected)


def test_what_is_not_ours_goes_to_transformers(monkeypatch):
    experts = tiny_mixtral().model.layers[0].mlp.experts
    states, index, weights = torch.randn(6, 32), torch.randint(0, 4, (6, 2)), torch.rand(6, 2)
    expected = layer.experts_forward(experts, states, index, weights)
    experts.has_post_expert_norm, experts.post_expert_norm = True, nn.Identity()
    torch.testing.assert_close(layer.experts_forward(experts, states, index, weights), expected)


def test_generation_continues_as_on_the_plain_kernels():
    network = tiny_mixtral()
    tokens = torch.tensor([[5, 6, 7]])
    network.set_experts_implementation("eager")
    expected = network.generate(tokens, max_new_tokens=12, do_sample=False)
    network.set_experts_implementation("moesaic")
    assert torch.equal(network.generate(tokens, max_new_tokens=12, do_sample=False), expected)


def test_a_saved_model_does_not_ask_for_our_kernels(tmp_path):
    network = tiny_mixtral()
    network.set_experts_implementation("moesaic")
    network.save_pretrained(tmp_path)
    assert "moesaic" not in (tmp_path / "config.json").read_text()


def test_one_import_makes_the_word_known():
    assert moesaic.experts.IMPLEMENTATION == "moesaic"
    with pytest.raises(ValueError, match="moesaics"):
        tiny_mixtral().set_experts_implementation("moesaics")


@pytest.mark.skipif(not grouped.is_available(), reason="the native kernels were not built: there is no C++ compiler")
def test_an_installation_with_a_compiler_has_the_native_kernels():
    assert moesaic.experts.instruction_set() >= moesaic.experts.InstructionSet.PORTABLE
