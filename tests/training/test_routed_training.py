import copy
import re

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from moesaic.data import Examples
from moesaic.members import EstimatorMember, ModuleMember
from moesaic.routed_mixture import FeatureRouter, RoutedMixture
from moesaic.training import (
    MIXTURE_MEMBERS_ONLY,
    MixtureObjective,
    RouterBalance,
    TrainingOptions,
    accuracy,
    fit_experts,
    fit_jointly,
    fit_router,
    predict_logits,
    router_alarms,
)
from moesaic.types import Routing

OPTIONS = TrainingOptions(num_steps=80, batch_size=40, learning_rate=0.1, weight_decay=0.0, checkpoint_every=0)
# class 1 lies between the two ends, where class 0 is
INPUTS = torch.linspace(-2, 2, 80).unsqueeze(1)
EXAMPLES = Examples(INPUTS, (INPUTS.squeeze(1).abs() < 1).long())
HALVES = {
    "left": Examples(INPUTS[:40], EXAMPLES.labels[:40]),
    "right": Examples(INPUTS[40:], EXAMPLES.labels[40:]),
}


def make(seed=0, **arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        members = [ModuleMember(name, nn.Linear(1, 2)) for name in HALVES]
    return RoutedMixture(members, FeatureRouter(num_features=1, num_members=2, seed=seed), **arguments)


def changed(before, after):
    """The parameters that are not what they were."""
    pairs = zip(before.state_dict().items(), after.state_dict().values(), strict=True)
    return {name for (name, old), new in pairs if not torch.equal(old, new)}


def score(mixture):
    return accuracy(predict_logits(mixture, INPUTS), EXAMPLES.labels)


def test_experts_then_router_then_jointly():
    mixture = make()
    stages = [copy.deepcopy(mixture)]
    histories = fit_experts(mixture, HALVES, OPTIONS)
    stages.append(copy.deepcopy(mixture))
    fit_router(mixture, EXAMPLES, OPTIONS)
    stages.append(copy.deepcopy(mixture))
    history = fit_jointly(mixture, EXAMPLES, OPTIONS)

    members = {f"members.{number}.{part}" for number in (0, 1) for part in ("weight", "bias")}
    router = {"router.scores.weight", "router.scores.bias"}
    assert changed(stages[0], stages[1]) == members
    assert changed(stages[1], stages[2]) == router
    assert changed(stages[2], mixture) == members | router
    assert list(histories) == ["left", "right"]
    assert len(histories["left"]) == len(history) == OPTIONS.num_steps
    assert score(stages[0]) < 0.8 < 0.95 < score(stages[2])
    assert score(mixture) > 0.95


def test_from_scratch():
    mixture = make()
    fit_jointly(mixture, EXAMPLES, OPTIONS)
    assert score(mixture) > 0.95


def test_members_learn_under_a_router_that_stays():
    mixture = make()
    before = copy.deepcopy(mixture)
    fit_jointly(mixture, EXAMPLES, TrainingOptions(**{**vars(OPTIONS), "learning_rate_scales": MIXTURE_MEMBERS_ONLY}))
    assert {name.split(".")[0] for name in changed(before, mixture)} == {"members"}


def test_a_member_is_trained_alone_and_the_others_stay():
    mixture = make()
    before = copy.deepcopy(mixture)
    fit_experts(mixture, {"right": HALVES["right"]}, OPTIONS)
    assert changed(before, mixture) == {"members.1.weight", "members.1.bias"}


@pytest.mark.parametrize("train", [fit_router, fit_jointly])
def test_the_encoder_is_not_trained(train):
    encoder = nn.Linear(1, 3)
    router = FeatureRouter(num_features=3, num_members=2, encoder=encoder)
    mixture = RoutedMixture([ModuleMember(name, nn.Linear(1, 2)) for name in HALVES], router)
    before = copy.deepcopy(mixture)
    train(mixture, EXAMPLES, OPTIONS)
    assert not any(name.startswith("router.encoder") for name in changed(before, mixture))
    assert any(name.startswith("router.scores") for name in changed(before, mixture))


def test_estimators_may_be_members_while_the_router_learns():
    halves = {name: LogisticRegression().fit(half.inputs, half.labels) for name, half in HALVES.items()}
    members = [EstimatorMember(name, estimator) for name, estimator in halves.items()]
    mixture = RoutedMixture(members, FeatureRouter(num_features=1, num_members=2), top_k=2)
    fit_router(mixture, EXAMPLES, OPTIONS)
    assert score(mixture) > 0.95


def test_the_balance_loss_spreads_the_rows():
    shares = []
    for coefficient in (0.0, 1.0):
        mixture = make()
        with torch.no_grad():
            mixture.router.scores.bias.copy_(torch.tensor([6.0, 0.0]))
        objective = MixtureObjective(balance=RouterBalance(router_aux_loss_coef=coefficient))
        fit_router(mixture, EXAMPLES, OPTIONS, objective=objective)
        shares.append(mixture.route(INPUTS).weights.mean(dim=0).min().item())
    assert shares[0] < shares[1]


# alarms


def test_a_healthy_router_raises_no_alarm():
    assert router_alarms(Routing.dense(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), ["a", "b"]) == []


def test_a_dead_member_and_a_saturated_router_are_told():
    # the softmax of (9, 0) is (0.99988, 0.00012)
    alarms = router_alarms(Routing.dense(torch.tensor([[9.0, 0.0], [9.0, 0.0]])), ["busy", "idle"])
    assert alarms == [
        "idle is dead: it gets 0.0% of the weight, and an even share is 50.0%. Raise router_aux_loss_coef, train the "
        "member longer before the router, or leave it out.",
        "The router is saturated: on average its first choice has 100.0% of a row's probability. If it is to learn on, "
        "next to no gradient reaches it: raise router_z_loss_coef, or lower its learning rate (learning_rate_scales).",
    ]


def test_a_member_that_is_never_among_the_chosen_is_dead():
    routing = make(top_k=1).route(INPUTS)
    never = Routing(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.long), torch.tensor([[0.1, 0.0]] * 3))
    assert len(router_alarms(never, ["left", "right"])) == 1
    assert routing.num_members == 2


# bad input


def test_examples_for_a_member_that_is_not_there():
    sentence = "There are examples for middle, and the members are left, right. Name the examples as the members."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit_experts(make(), {"middle": EXAMPLES}, OPTIONS)


def test_an_estimator_is_not_trained_as_a_network():
    member = EstimatorMember("fitted", LogisticRegression().fit(INPUTS, EXAMPLES.labels))
    mixture = RoutedMixture([member], FeatureRouter(num_features=1, num_members=1))
    sentence = "fitted has no parameters to train, as a fitted estimator has none. Leave it out."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit_experts(mixture, {"fitted": EXAMPLES}, OPTIONS)


def test_texts_are_refused():
    sentence = (
        "A routed mixture is trained on tensors that router and members both read, and the inputs are texts. Give it "
        "their features, or fit it by fit_em, whose experts and router each read texts in their own way."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit_router(make(), Examples(["a"], torch.tensor([0])), OPTIONS)
