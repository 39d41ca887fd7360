import pytest
import torch

import moesaic
from moesaic.combiners import ReLU, Routed, Sigmoid, TopP, Weighted
from moesaic.errors import DataError
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.testing import save_tiny_checkpoint, tiny_causal_lm, tiny_tokenizer

QUICK = {"num_steps": 6, "batch_size": 4, "sequence_length": 8, "learning_rate": 1e-2, "num_warmup_steps": 1}


@pytest.fixture
def text(tmp_path):
    for name in ("cats", "mats"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"the {name} sat on the {name} " * 40)
    return {"cats": tmp_path / "cats", "mats": str(tmp_path / "mats")}


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before, network):
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


def test_only_the_router_of_a_mixture_is_trained(text):
    members = [CausalLM(name, tiny_causal_lm(seed=seed), tiny_tokenizer()) for seed, name in enumerate("ab")]
    mixture = Mixture(members, Routed())
    before = weights(mixture)
    moesaic.train(mixture, text, only="router", **QUICK)
    assert changed(before, mixture) == {"combiner.embedding.weight", "combiner.router.weight", "combiner.router.bias"}
    moesaic.train(mixture, text, **QUICK)
    assert any(name.startswith("members.1.") for name in changed(before, mixture))


def three_members():
    return [CausalLM(name, tiny_causal_lm(seed=seed), tiny_tokenizer()) for seed, name in enumerate("abc")]


def test_training_adapts_what_a_mixtures_choice_does_not_learn(text):
    mixture = Mixture(three_members(), Routed(choice=Sigmoid(2, bias_update_rate=0.01)))
    history = moesaic.train(mixture, text, only="router", **QUICK)
    bias = mixture.combiner.choice.bias
    assert bias.abs().max() > 0
    # Each of the six batches moves each bias by 0.01, or by nothing where a load is the mean.
    torch.testing.assert_close(bias / 0.01, (bias / 0.01).round())
    assert set(history[0].parts) == {"nats"}


def test_a_choices_penalty_is_part_of_the_loss_in_nested_mixtures_too(text):
    members = three_members()
    inner = Mixture(members[:2], Routed(choice=ReLU(1, coef=0.5), space="logit"), name="inner")
    outer = Mixture([inner, members[2]], Routed(choice=TopP(0.8, entropy_coef=0.1)))
    first = moesaic.train(outer, text, **QUICK)[0]
    assert first.loss == pytest.approx(first.parts["nats"] + first.parts["router_penalty"])
    assert first.parts["router_penalty"] > 0
    # Six batches multiplied or divided the coefficient by 1.2.
    assert inner.combiner.choice.coef != 0.5


def test_only_the_routers_of_a_sparse_model_are_trained(text, tmp_path):
    members = [save_tiny_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    sparse = moesaic.load_member(moesaic.assemble(members, tmp_path / "sparse"))
    before = weights(sparse.network)
    history = moesaic.train(sparse, text, only="router", **QUICK)
    assert changed(before, sparse.network) == {f"model.layers.{layer}.mlp.gate.weight" for layer in (0, 1)}
    assert set(history[0].parts) == {"nats", "load_balance", "router_z"}


def test_text_shorter_than_a_sequence_is_refused(text):
    member = CausalLM("tiny", tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(DataError, match=r"^'cats' has \d+ tokens, fewer than one sequence of 5000 and the token after"):
        moesaic.train(member, text, **(QUICK | {"sequence_length": 5000}))


def test_a_model_without_tokenizer_is_refused(text):
    with pytest.raises(ValueError, match=r"^mute has no tokenizer, so it cannot read text\. Load it with one\.$"):
        moesaic.train(CausalLM("mute", tiny_causal_lm()), text, **QUICK)


def test_a_mixture_without_router_has_nothing_to_train(text, members):
    from moesaic.combiners import Average

    with pytest.raises(ValueError, match="freeze every parameter, so there is nothing to train"):
        moesaic.train(Mixture(members, Average()), text, only="router", **QUICK)


def test_weights_of_members_are_learned(text):
    members = [CausalLM(name, tiny_causal_lm(seed=seed), tiny_tokenizer()) for seed, name in enumerate("ab")]
    moesaic.train(members[1], text, **(QUICK | {"num_steps": 30}))
    mixture = Mixture(members, Weighted())
    moesaic.train(mixture, text, only="router", **(QUICK | {"num_steps": 30, "learning_rate": 0.1}))
    assert mixture(torch.tensor([[5]])).routing.weights[0, 0, 1] > 0.9
