import sys

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from moesaic.combiners import Average
from moesaic.data import NOT_SCORED, Batch
from moesaic.mixture import Mixture
from moesaic.testing import tiny_causal_lm
from moesaic.training import SparseLanguageModeling, language_modeling
from moesaic.training import objectives as module
from moesaic.training.objectives import PLAIN_HEADS, has_plain_head

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def network_of(model_type, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES, **more)
    return AutoModelForCausalLM.from_config(config).train()


def batch():
    tokens = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(0))
    labels = tokens[:, 1:].clone()
    labels[0, :5] = NOT_SCORED
    return Batch(tokens[:, :-1], labels, torch.tensor([0, 1, 1, 0]))


def losses_and_gradients(network):
    objective = SparseLanguageModeling() if hasattr(network.config, "num_experts_per_tok") else language_modeling
    losses = objective(network, batch())
    network.zero_grad()
    losses.total.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    return {"total": losses.total, **losses.parts}, gradients


@pytest.mark.parametrize("model_type", sorted(PLAIN_HEADS))
def test_the_losses_of_a_plain_head_are_those_of_its_logits(monkeypatch, model_type):
    network = network_of(model_type)
    assert has_plain_head(network)
    ours = losses_and_gradients(network)
    monkeypatch.setattr(module, "has_plain_head", lambda network: False)
    torch.testing.assert_close(ours, losses_and_gradients(network), rtol=1e-5, atol=1e-6)


def test_a_tied_embedding_gets_both_gradients(monkeypatch):
    network = network_of("llama", tie_word_embeddings=True)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    ours = losses_and_gradients(network)
    monkeypatch.setattr(module, "has_plain_head", lambda network: False)
    torch.testing.assert_close(ours, losses_and_gradients(network), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gemma2", {"final_logit_softcapping": 0.1}),  # so low that the loss without it is another
        ("granite", {"logits_scaling": 7.0}),
        ("cohere", {"logit_scale": 0.01}),
    ],
)
def test_logits_that_are_more_than_a_product_are_asked_for(model_type, settings):
    network = network_of(model_type, **settings)
    assert not has_plain_head(network)
    expected = nn.functional.cross_entropy(
        network(input_ids=batch().input_ids).logits.flatten(0, 1), batch().labels.flatten(), ignore_index=NOT_SCORED
    )
    torch.testing.assert_close(language_modeling(network, batch()).total, expected)


class Doubled(LlamaForCausalLM):
    def forward(self, **arguments):
        output = super().forward(**arguments)
        output.logits = 2 * output.logits
        return output


class Wider(nn.Linear):
    pass


def test_whatever_may_change_the_logits_is_not_taken_apart(members):
    assert has_plain_head(tiny_causal_lm())
    assert not has_plain_head(Mixture(members, Average()))
    assert not has_plain_head(Doubled(tiny_causal_lm().config))
    assert not has_plain_head(nn.Linear(2, 2))
    adapted, hooked = tiny_causal_lm(), tiny_causal_lm()
    adapted.lm_head = Wider(32, 300)
    hooked.lm_head.register_forward_hook(lambda head, arguments, logits: logits * 2)
    assert not has_plain_head(adapted) and not has_plain_head(hooked)


def test_training_makes_no_tensor_of_all_logits(monkeypatch):
    chunks = sys.modules["moesaic.tasks.linear_cross_entropy"]
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 1)
    monkeypatch.setattr(chunks, "LEAST_TOKENS", 8)
    network = tiny_causal_lm().train()
    monkeypatch.setattr(network.lm_head, "forward", None)  # not called
    language_modeling(network, batch()).total.backward()
    assert network.lm_head.weight.grad.abs().sum() > 0
