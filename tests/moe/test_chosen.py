import re

import pytest
import torch
from transformers import AutoModelForCausalLM

import moesaic
from moesaic.combiners import ExpertChoice, Hard, NoisyTopK, ReLU, Sigmoid, TopK, TopP
from moesaic.data import Batch
from moesaic.errors import CheckpointError
from moesaic.members import load_network
from moesaic.moe import assemble, choose_by, find_choices, find_gates, record_routing
from moesaic.testing import save_tiny_checkpoint, tiny_causal_lm
from moesaic.training import ChosenLanguageModeling, TrainingOptions, fit

TOKENS = torch.tensor([[5, 17, 8, 42, 9, 3], [11, 2, 7, 7, 90, 61]])
CHOICES = {
    "top-p": lambda: TopP(0.7, entropy_coef=0.01),
    "sigmoid": lambda: Sigmoid(top_k=2, bias_update_rate=0.01),
    "relu": lambda: ReLU(num_active=1.5, coef=0.01),
    "hard": Hard,
    "noisy": lambda: NoisyTopK(top_k=2),
}


@pytest.fixture(params=["llama", "qwen3"])
def network(request, tmp_path):
    """Three experts, with routers that differ from 0."""
    members = [save_tiny_checkpoint(tmp_path / str(seed), request.param, seed=seed) for seed in range(3)]
    made = load_network(assemble(members, tmp_path / "sparse"))
    with torch.no_grad():
        for gate in find_gates(made):
            gate.weight.normal_(std=1.0)
    return made.eval()


@torch.no_grad()
def test_top_k_as_a_choice_is_the_architectures_own(network):
    chosen = choose_by(network, TopK(network.config.num_experts_per_tok))
    torch.testing.assert_close(chosen(TOKENS).logits, network(TOKENS).logits)


@torch.no_grad()
def test_all_experts_by_top_p_are_all_experts_by_top_k(network):
    # Top-p marks nothing as unused with p = 1; top-k lists the same experts in another order.
    dense, listed = choose_by(network, TopP(1.0)), choose_by(network, TopK(3))
    torch.testing.assert_close(dense(TOKENS).logits, listed(TOKENS).logits)


@torch.no_grad()
def test_how_many_experts_a_token_uses_is_up_to_the_token(network):
    chosen = choose_by(network, TopP(0.7))
    with record_routing(chosen) as layers:
        output = chosen(TOKENS, output_router_logits=True)
    used = torch.stack([(routing.weights > 0).sum(-1) for routing in layers])
    assert used.shape == (2, TOKENS.numel())
    assert used.unique().numel() > 1
    for routing, logits in zip(layers, output.router_logits, strict=True):
        torch.testing.assert_close(routing.weights.sum(-1), torch.ones(TOKENS.numel()))
        assert torch.equal(routing.router_logits, logits)
    chosen(TOKENS)
    assert len(layers) == 2  # nothing is recorded afterwards


@torch.no_grad()
def test_unused_experts_change_nothing(network):
    chosen = choose_by(network, Hard())
    with record_routing(chosen) as layers:
        before = chosen(TOKENS[:1, :1]).logits
    unused = [int(expert) for expert in (layers[1].weights[0] == 0).nonzero()]
    assert len(unused) == 2
    experts = chosen.model.layers[1].mlp.experts
    experts.down_proj[unused] = float("nan")
    assert torch.equal(chosen(TOKENS[:1, :1]).logits, before)


@pytest.mark.parametrize("name", CHOICES)
def test_it_is_saved_under_a_type_of_its_own_and_loads_again(network, tmp_path, name):
    chosen = choose_by(network, CHOICES[name]())
    for buffer in (buffer for choice in find_choices(chosen) for buffer in choice.buffers()):
        buffer.add_(0.25)  # what a choice learned without gradients is kept
    chosen.save_pretrained(tmp_path / "chosen")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "chosen").eval()
    assert type(loaded).__name__.startswith("Chosen")
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS).logits, chosen(TOKENS).logits)
    generated = loaded.generate(TOKENS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(generated, chosen.generate(TOKENS, max_new_tokens=4, do_sample=False, pad_token_id=0))


@pytest.mark.parametrize("name", CHOICES)
def test_gradients_reach_every_router(network, name):
    chosen = choose_by(network, CHOICES[name]()).train()
    batch = Batch(TOKENS, TOKENS.roll(-1, dims=1), torch.zeros(2, dtype=torch.long))
    ChosenLanguageModeling()(chosen, batch).total.backward()
    for gate in find_gates(chosen):
        assert gate.weight.grad.abs().max() > 0


class Repeated:
    """The same batch at every step."""

    def batch(self, step):
        return Batch(TOKENS, TOKENS.roll(-1, dims=1), torch.zeros(2, dtype=torch.long))


def train(network, **options):
    settings = TrainingOptions(batch_size=2, sequence_length=6, num_warmup_steps=0, checkpoint_every=0, **options)
    return fit(network, Repeated(), ChosenLanguageModeling(), settings)


def test_training_adapts_what_gradients_do_not(network):
    chosen = choose_by(network, Sigmoid(top_k=2, bias_update_rate=0.01))
    history = train(chosen, num_steps=3, learning_rate=1e-3)
    assert all(choice.bias.abs().max() > 0 for choice in find_choices(chosen))
    assert history[-1].parts["experts_used"] == pytest.approx(2)


def test_relus_penalty_reaches_the_number_of_experts_that_is_wanted(network):
    chosen = choose_by(network, ReLU(num_active=1.0, coef=0.01))
    history = train(chosen, num_steps=60, learning_rate=1e-2)
    assert history[-1].parts["experts_used"] < history[0].parts["experts_used"]
    assert history[-1].parts["experts_used"] == pytest.approx(1.0, abs=0.35)
    assert history[-1].loss < history[0].loss


def test_train_takes_the_choices_losses(network, tmp_path, members):
    (tmp_path / "text.txt").write_text("the cat sat on the mat " * 60)
    member = moesaic.members.CausalLM("chosen", choose_by(network, TopP(0.7)), members[0].tokenizer)
    history = moesaic.train(member, tmp_path, num_steps=2, batch_size=2, sequence_length=8)
    assert history[-1].parts.keys() == {"nats", "router_penalty", "router_z", "experts_used"}


def test_a_choice_can_be_changed_again(network):
    again = choose_by(choose_by(network, Sigmoid(top_k=2)), TopP(0.5))
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, choose_by(network, TopP(0.5))(TOKENS).logits)


def test_expert_choice_is_refused(network):
    sentence = (
        "The choice 'expert_choice' lets experts pick among all tokens of a text, so that a token's experts depend on "
        "later tokens, which a model that predicts the next token cannot know. Use 'sigmoid', which balances the "
        "experts' loads and looks at one token, or 'top_k' or 'top_p'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        choose_by(network, ExpertChoice())


def test_more_experts_than_there_are_cannot_be_chosen(network):
    with pytest.raises(ValueError, match=r"^top_k must be from 1 to num_members \(3\), got 4\.$"):
        choose_by(network, TopK(4))


def test_a_dense_model_has_no_routers():
    sentence = (
        "Routers of a model of type 'llama' cannot be given another choice; those of mixtral, moesaic_mixtral, "
        "moesaic_qwen3_moe, qwen3_moe can."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        choose_by(tiny_causal_lm(), TopP(0.5))
