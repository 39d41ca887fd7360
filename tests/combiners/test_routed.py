import pytest
import torch

from moesaic.combiners import ExpertChoice, Hard, NoisyTopK, ReLU, Routed, Sigmoid, TopP
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.testing import tiny_causal_lm

TOKENS = torch.tensor([[5, 17, 8, 42, 9], [4, 9, 61, 30, 7]])
RENORMALIZED = {
    "softmax": Routed,
    "top_k": lambda: Routed(top_k=2),
    "noisy_top_k": lambda: Routed(choice=NoisyTopK(2)),
    "top_p": lambda: Routed(choice=TopP(0.6)),
    "sigmoid": lambda: Routed(choice=Sigmoid(2)),
    "hard": lambda: Routed(choice=Hard()),
    "gumbel": lambda: Routed(choice=Hard(gumbel=True)),
}


@pytest.mark.parametrize("space", ["probability", "log_probability", "logit"])
@pytest.mark.parametrize("name", RENORMALIZED)
def test_identical_members_give_the_dense_model(name, space):
    combiner = RENORMALIZED[name]()
    combiner.space = space
    # While training too, when some choices are drawn.
    mixture = Mixture([CausalLM(each, tiny_causal_lm(seed=1)) for each in "abc"], combiner).train()
    expected = tiny_causal_lm(seed=1)(TOKENS).logits.log_softmax(-1)
    torch.testing.assert_close(mixture(TOKENS).logits.log_softmax(-1), expected)


@pytest.mark.parametrize("space", ["probability", "log_probability", "logit"])
@pytest.mark.parametrize("name", RENORMALIZED)
def test_gradients_of_the_loss_reach_every_parameter_of_the_router(members, name, space):
    combiner = RENORMALIZED[name]()
    combiner.space = space
    mixture = Mixture(members, combiner).train()
    mixture(TOKENS, labels=TOKENS).loss.backward()
    for parameter_name, parameter in combiner.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("space", ["log_probability", "logit"])
def test_gradients_reach_a_router_of_members_with_positive_scores(members, space):
    combiner = Routed(choice=ReLU(1), space=space)
    Mixture(members, combiner).train()(TOKENS, labels=TOKENS).loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in combiner.parameters())


def test_a_hard_choice_learns_to_take_the_member_that_predicts_the_text(members):
    torch.manual_seed(0)
    text = members[2].network.generate(TOKENS[:, :1], max_new_tokens=20, do_sample=True, pad_token_id=0)
    mixture = Mixture(members, Routed(choice=Hard())).train()
    optimizer = torch.optim.Adam(mixture.combiner.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        mixture(text, labels=text).loss.backward()
        optimizer.step()
    assert (mixture.eval()(text).routing.weights[:, :-1, 2] == 1).float().mean() > 0.9


@pytest.mark.parametrize("name", RENORMALIZED)
def test_nesting_equals_the_flat_mixture_with_multiplied_weights(members, name):
    inner = Mixture(members[:2], RENORMALIZED[name](), name="inner").eval()
    outer = Mixture([inner, members[2]], RENORMALIZED[name]()).eval()
    outside, inside = outer(TOKENS), inner(TOKENS).routing.weights
    of_inner, of_last = outside.routing.weights.split(1, dim=-1)
    weights = torch.cat([of_inner * inside, of_last], dim=-1)  # (batch, position, member)
    probabilities = torch.stack([member.network(TOKENS).logits.softmax(-1) for member in members], dim=2)
    expected = (weights.unsqueeze(-1) * probabilities).sum(dim=2)
    torch.testing.assert_close(outside.logits.softmax(-1), expected)


def test_top_p_of_one_equals_the_dense_mixture(members):
    dense = Mixture(members, Routed())(TOKENS)
    assert torch.equal(Mixture(members, Routed(choice=TopP(1)))(TOKENS).logits, dense.logits)


def test_what_adaptation_has_changed_is_saved_and_loaded(members, tmp_path):
    for folder, choice in {"sigmoid": Sigmoid(2, bias_update_rate=0.1), "relu": ReLU(1)}.items():
        mixture = Mixture(members, Routed(choice=choice, space="logit")).eval()
        for _ in range(5):
            mixture.combiner.adapt(mixture(TOKENS).routing)
        mixture.save_pretrained(tmp_path / folder)
        loaded = Mixture.from_pretrained(tmp_path / folder).eval()
        changed, kept = (dict(each.combiner.choice.named_buffers()) for each in (mixture, loaded))
        assert changed.keys() == kept.keys() != set()
        assert all(torch.equal(changed[buffer], kept[buffer]) for buffer in changed)
        assert torch.equal(loaded(TOKENS).logits, mixture(TOKENS).logits)


def test_arguments_of_earlier_versions_make_the_same_combiner():
    old = Routed(top_k=2, normalize=False, space="logit", router_width=8, seed=3)
    assert Routed(**old.arguments()).arguments() == old.arguments()
    assert old.arguments()["choice"] == {"type": "top_k", "top_k": 2, "normalize": False}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Routed(top_k=1),
            "top_k=1 with normalize=True gives every chosen member the weight 1, so its router cannot learn from the "
            "language-model loss. Use top_k=2 or more, normalize=False with space='logit', or the choice 'hard'.",
        ),
        (
            lambda: Routed(top_k=1, normalize=False),
            "top_k=1 in probability space gives the chosen member's own distribution, whatever its weight, so its "
            "router cannot learn from the language-model loss. Use top_k=2 or more, space='logit', or the choice "
            "'hard'.",
        ),
        (
            lambda: Routed(choice=NoisyTopK(1)),
            "top_k=1 gives every chosen member the weight 1, so its router cannot learn from the language-model loss. "
            "Use top_k=2 or more, or the choice 'hard'.",
        ),
        (
            lambda: Routed(choice=Sigmoid(1)),
            "top_k=1 gives every chosen member the weight 1, so its router cannot learn from the language-model loss. "
            "Use top_k=2 or more, or the choice 'hard'.",
        ),
        (
            lambda: Routed(choice=TopP(0.25)).attach(3, 300),
            "top_p=0.25 is reached by the likeliest of 3 members alone, so every token uses one member, and its router "
            "cannot learn from the language-model loss. Use a top_p above 0.333, or the choice 'hard'.",
        ),
        (
            lambda: Routed(choice=ReLU(2)),
            "The choice 'relu' in probability space gives the same output whatever the size of its weights, so its "
            "penalty shrinks them until every member is silent, and no gradient brings one back. Use space='logit', or "
            "the choice 'top_p', which also lets the input decide how many members are used.",
        ),
        (
            lambda: Routed(top_k=2, choice=TopP(0.5)),
            "Routed was given top_k=2 and a choice of its own. Leave top_k out, or give it to the choice.",
        ),
        (
            lambda: Routed(choice=ExpertChoice()),
            "The choice 'expert_choice' lets members pick among all tokens of a text, so that a token's routing "
            "depends on later tokens, which a mixture that predicts the next token cannot know. Use 'sigmoid', which "
            "balances the members' loads and looks at one token, or 'top_k' or 'top_p'.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_training(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence


def test_one_member_scaled_by_its_weight_can_learn(members):
    mixture = Mixture(members, Routed(top_k=1, normalize=False, space="logit")).train()
    mixture(TOKENS, labels=TOKENS).loss.backward()
    assert mixture.combiner.router.weight.grad.abs().max() > 0
