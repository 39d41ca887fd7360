import pytest
import torch

from moesaic.combiners import (
    CHOICES,
    Average,
    ExpertChoice,
    Hard,
    NoisyTopK,
    ReLU,
    Sigmoid,
    Softmax,
    TopK,
    TopP,
    build_choice,
    register_choice,
    top_k_routing,
)
from moesaic.combiners.choices import (
    balance_bias,
    expert_choice_routing,
    gumbel_logits,
    hard_routing,
    member_loads,
    noisy_logits,
    relu_routing,
    sigmoid_routing,
    top_p_routing,
)
from moesaic.types import Routing

LOGITS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
FEATURES = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def attached(choice, num_members=4, num_features=6):
    choice.attach(num_members, num_features)
    return choice


def test_top_k_of_all_members_is_dense():
    torch.testing.assert_close(top_k_routing(LOGITS, top_k=4).weights, Routing.dense(LOGITS).weights)


def test_top_p_of_one_is_dense_even_where_a_probability_vanishes():
    # Float32 cannot tell 1 + 2e-9 from 1, so the first member alone seems to reach 1.
    logits = torch.cat([LOGITS, torch.tensor([[20.0, 0.0, -1.0, -2.0]])])
    assert torch.equal(top_p_routing(logits, top_p=1).weights, Routing.dense(logits).weights)


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9])
def test_top_p_takes_the_fewest_members_that_reach_it(top_p):
    weights = top_p_routing(LOGITS, top_p=top_p, normalize=False).weights
    assert (weights.sum(-1) >= top_p).all()
    smallest = weights.where(weights > 0, torch.inf).amin(-1)
    assert (weights.sum(-1) - smallest < top_p).all()


def test_how_many_members_top_p_uses_depends_on_the_input():
    logits = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]]).log()
    assert (top_p_routing(logits, top_p=0.7).weights > 0).sum(-1).tolist() == [1, 3]


def test_the_bias_of_a_sigmoid_decides_who_is_used_and_no_more():
    logits = torch.tensor([[0.6, 0.4, 0.2]]).logit()
    weights = sigmoid_routing(logits, top_k=2, bias=torch.tensor([0.0, -0.3, 0.0])).weights
    # Of 0.6, 0.1 and 0.2 the first and the last are chosen; their own sigmoids are 0.6 and 0.2.
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.0, 0.25]]))


def test_balancing_the_bias_evens_the_loads():
    # The scores prefer the first member at every token, so that it and a second one get everything.
    logits = LOGITS + torch.tensor([3.0, 0.0, 0.0, -2.0])
    choice = attached(Sigmoid(top_k=2, bias_update_rate=0.005))
    loads = []
    for _ in range(400):
        routing = choice(logits, FEATURES)
        loads.append(member_loads(routing))
        choice.adapt(routing)
    assert loads[0].max() - loads[0].min() > 45  # of 50 tokens, 25 for each member would be even
    assert loads[-1].max() - loads[-1].min() <= 5


def test_a_bias_is_moved_against_the_load_by_its_sign_alone():
    bias = balance_bias(torch.zeros(4), torch.tensor([100.0, 1.0, 3.0, 0.0]), bias_update_rate=0.5)
    assert bias.tolist() == [-0.5, 0.5, 0.5, 0.5]


def test_padding_does_not_count_as_load():
    loads = member_loads(top_k_routing(LOGITS[:2], top_k=4), torch.tensor([True, False]))
    assert loads.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("num_active", [1.5, 2.5])
def test_the_penalty_on_relu_reaches_the_wanted_sparsity(num_active):
    torch.manual_seed(0)
    router = torch.nn.Linear(6, 4)
    choice = attached(ReLU(num_active=num_active, coef=1e-3, factor=1.05))
    # Every member is wanted a little; nothing but the penalty asks for few.
    wanted = LOGITS.softmax(dim=-1)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.01)
    used = []
    for _ in range(800):
        routing = choice(router(FEATURES), FEATURES)
        loss = (routing.weights - wanted).square().sum(-1).mean() + choice.penalty(routing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        choice.adapt(routing)
        used.append((routing.router_logits > 0).sum(-1).float().mean().item())
    assert max(used[:200]) > num_active + 0.5
    assert abs(sum(used[-200:]) / 200 - num_active) < 0.2


def test_where_no_relu_is_positive_the_highest_answers_alone():
    routing = relu_routing(torch.tensor([[-3.0, -1.0, -2.0]], requires_grad=True))
    assert routing.weights.tolist() == [[0, 1, 0]]
    routing.weights.sum().backward()


def test_a_hard_choice_is_one_member_with_the_gradient_of_a_softmax():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().requires_grad_()
    weights = hard_routing(logits).weights
    assert weights.tolist() == [[1, 0, 0]]
    weights[0, 1].backward()
    # The gradient of the softmax's second output: p_2 (0 - p_1), p_2 (1 - p_2), p_2 (0 - p_3)
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.15, 0.21, -0.06]]))


def test_gumbel_noise_draws_members_by_their_probability():
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    logits = probabilities.log().expand(20_000, 3)
    drawn = gumbel_logits(logits, generator=torch.Generator().manual_seed(0)).argmax(-1).bincount() / 20_000
    torch.testing.assert_close(drawn, probabilities, atol=0.02, rtol=0)


def test_noise_has_the_standard_deviation_that_is_learned():
    # softplus(log(e - 1)) = 1 and softplus(-50) = 0
    noise_logits = torch.tensor([torch.e - 1, 0.0]).log().clamp_min(-50).expand(20_000, 2)
    noisy = noisy_logits(torch.zeros(20_000, 2), noise_logits, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(noisy.std(dim=0), torch.tensor([1.0, 0.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("choice", [NoisyTopK(2), Hard(gumbel=True)], ids=lambda choice: choice.word)
def test_there_is_noise_while_training_only(choice):
    attached(choice).eval()
    assert torch.equal(choice(LOGITS, FEATURES).router_logits, LOGITS)
    choice.train()
    assert not torch.equal(choice(LOGITS, FEATURES).router_logits, LOGITS)


def test_members_that_choose_their_tokens_have_even_loads():
    routing = expert_choice_routing(LOGITS[:48], capacity_factor=2)
    assert member_loads(routing).tolist() == [24, 24, 24, 24]


def test_members_choose_among_all_tokens_of_a_batch():
    choice = attached(ExpertChoice())
    weights = choice(LOGITS[:48].view(4, 12, 4), FEATURES[:48].view(4, 12, 6)).weights
    torch.testing.assert_close(weights.view(48, 4), expert_choice_routing(LOGITS[:48]).weights)


EVERY_CHOICE = [
    Softmax(),
    TopK(2),
    TopK(2, normalize=False),
    NoisyTopK(3),
    TopP(0.6),
    Sigmoid(2),
    ReLU(2),
    Hard(),
    ExpertChoice(2.0),
]


@pytest.mark.parametrize("choice", EVERY_CHOICE, ids=repr)
def test_a_choice_is_made_again_from_its_word_and_arguments(choice):
    again = attached(build_choice(choice.word, **choice.arguments()))
    assert repr(again) == repr(attached(choice))
    assert torch.equal(again.eval()(LOGITS, FEATURES).weights, choice.eval()(LOGITS, FEATURES).weights)


@pytest.mark.parametrize("choice", EVERY_CHOICE, ids=repr)
def test_weights_are_not_negative_and_sum_to_one_where_promised(choice):
    weights = attached(choice)(LOGITS, FEATURES).weights
    assert (weights >= 0).all()
    if choice.weights_sum_to_one:
        torch.testing.assert_close(weights.sum(-1), torch.ones(50))


def test_every_choice_is_tried():
    assert {choice.word for choice in EVERY_CHOICE} == set(CHOICES)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: top_k_routing(torch.zeros(2), top_k=3), "top_k must be from 1 to num_members (2), got 3."),
        (lambda: attached(TopK(5)), "top_k must be from 1 to num_members (4), got 5."),
        (lambda: attached(NoisyTopK(0)), "top_k must be from 1 to num_members (4), got 0."),
        (lambda: attached(Sigmoid(5)), "top_k must be from 1 to num_members (4), got 5."),
        (lambda: TopP(0.0), "top_p must be above 0 and at most 1, got 0."),
        (lambda: top_p_routing(LOGITS, top_p=1.5), "top_p must be above 0 and at most 1, got 1.5."),
        (lambda: TopP(float("nan")), "top_p must be above 0 and at most 1, got nan."),
        (lambda: ReLU(0), "num_active must be above 0, got 0."),
        (lambda: attached(ReLU(4.5)), "num_active must be at most num_members (4), got 4.5."),
        (
            lambda: ReLU(1, coef=0),
            "coef must be above 0, got 0: it is multiplied, so from 0 it would never rise.",
        ),
        (lambda: ReLU(1, factor=1), "factor must be above 1, got 1."),
        (lambda: Hard(temperature=0), "temperature must be positive, got 0."),
        (
            lambda: expert_choice_routing(LOGITS, capacity_factor=5),
            "capacity_factor must be above 0 and at most num_members (4), got 5.",
        ),
        (
            lambda: build_choice("top-p"),
            "No choice is called 'top-p'; there are expert_choice, hard, noisy_top_k, relu, sigmoid, softmax, top_k, "
            "top_p.",
        ),
        (lambda: register_choice("top_p")(Average), "The word 'top_p' already names the choice TopP."),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence
