import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from moesaic.errors import IncompatibleMembersError, MemberError
from moesaic.members import EstimatorMember, EstimatorModule, ModuleMember
from moesaic.routed_mixture import FeatureRouter, RoutedMixture
from moesaic.testing import check_router

INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))


def make(count, *, make_network=lambda: nn.Linear(4, 3), seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [ModuleMember(f"member-{number}", make_network()) for number in range(count)]


def router(num_members, **arguments):
    return FeatureRouter(num_features=4, num_members=num_members, **arguments)


class Counting(nn.Module):
    """A linear layer that remembers how many rows it has read."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.num_rows = 0

    def forward(self, inputs):
        self.num_rows += len(inputs)
        return self.linear(inputs)


class Encoder(nn.Module):
    """Four inputs become six features."""

    def forward(self, inputs):
        return torch.cat([inputs, inputs[:, :2].square()], dim=1)


@pytest.mark.parametrize(
    "make_router",
    [
        router,
        lambda num_members: router(num_members, hidden_size=8),
        lambda num_members: FeatureRouter(num_features=6, num_members=num_members, encoder=Encoder()),
    ],
    ids=["linear", "perceptron", "over an encoder"],
)
def test_a_router_keeps_its_contract(make_router):
    check_router(make_router, INPUTS)


@pytest.mark.parametrize(
    ("score", "promise"),
    [
        (lambda scores: 5 * (scores - scores.mean(dim=0)), "other rows of the batch change the output"),
        (lambda scores: scores + torch.rand(scores.shape), "made twice, it does not give the same bits"),
        (lambda scores: scores.detach(), "no gradient reaches the router"),
    ],
    ids=["reads other rows", "random", "without gradients"],
)
def test_a_router_that_breaks_its_contract_is_found_out(score, promise):
    class Broken(nn.Module):
        def __init__(self, num_members):
            super().__init__()
            self.scores = router(num_members)

        def forward(self, inputs):
            return score(self.scores(inputs))

    with pytest.raises(AssertionError, match=f"^{promise}"):
        check_router(Broken, INPUTS)


def test_classes_are_mixed_by_their_probabilities():
    mixture = RoutedMixture(make(3), router(3))
    output = mixture(INPUTS)
    gates = mixture.router(INPUTS).softmax(dim=1)
    expected = sum(gates[:, [number]] * member(INPUTS).softmax(1) for number, member in enumerate(mixture.members))
    torch.testing.assert_close(output.logits.exp(), expected)
    torch.testing.assert_close(output.routing.weights, gates)
    assert output.chosen_logits.shape == (3, 12, 3)


def test_numbers_are_mixed_as_they_are():
    mixture = RoutedMixture(make(3), router(3), regression=True)
    gates = mixture.router(INPUTS).softmax(dim=1)
    expected = sum(gates[:, [number]] * member(INPUTS) for number, member in enumerate(mixture.members))
    torch.testing.assert_close(mixture(INPUTS).logits, expected)


@pytest.mark.parametrize("space", ["probability", "log_probability", "logit"])
def test_one_member_gives_exactly_that_member(space):
    (member,) = make(1)
    logits = RoutedMixture([member], router(1), top_k=1, space=space)(INPUTS).logits
    torch.testing.assert_close(logits.log_softmax(1), member.network(INPUTS).log_softmax(1))


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_identical_members_give_that_member(top_k):
    (member,) = make(1)
    copies = [ModuleMember(str(number), member.network) for number in range(3)]
    logits = RoutedMixture(copies, router(3), top_k=top_k)(INPUTS).logits
    torch.testing.assert_close(logits, member.network(INPUTS).log_softmax(1))


def test_asking_all_by_top_k_is_the_dense_mixture():
    members = make(3)
    dense, all_three = RoutedMixture(members, router(3)), RoutedMixture(members, router(3), top_k=3)
    torch.testing.assert_close(all_three(INPUTS).logits, dense(INPUTS).logits)


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_row_is_answered_by_its_chosen_members(top_k):
    mixture = RoutedMixture(make(4), router(4), top_k=top_k)
    output = mixture(INPUTS)
    everybody = torch.stack([member(INPUTS) for member in mixture.members])
    for row in range(len(INPUTS)):
        weights, index = output.routing.top_k_weights[row], output.routing.top_k_index[row]
        torch.testing.assert_close(output.chosen_logits[:, row], everybody[index, row])
        expected = (weights.unsqueeze(1) * everybody[index, row].softmax(1)).sum(0)
        torch.testing.assert_close(output.logits[row].exp(), expected)


@pytest.mark.parametrize("num_members", [4, 16])
def test_the_rows_that_are_read_grow_with_top_k_and_not_with_the_members(num_members):
    mixture = RoutedMixture(make(num_members, make_network=Counting), router(num_members), top_k=2)
    mixture(INPUTS)
    assert sum(member.num_rows for member in mixture.members) == 2 * len(INPUTS)


def test_gradients_reach_the_router_and_the_chosen_members_alone():
    mixture = RoutedMixture(make(4), router(4), top_k=2)
    output = mixture(INPUTS[:1])
    output.logits[0, 0].backward()
    chosen = set(output.routing.top_k_index[0].tolist())
    assert {number for number, member in enumerate(mixture.members) if member.weight.grad is not None} == chosen
    assert mixture.router.scores.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("regression", [False, True])
def test_nested_mixtures_are_the_flat_one_with_multiplied_weights(regression):
    members = make(4)
    lower = [
        RoutedMixture(members[half], router(2, seed=seed), regression=regression, name=f"branch-{seed}")
        for seed, half in ((1, slice(2)), (2, slice(2, 4)))
    ]
    nested = RoutedMixture(lower, router(2, seed=3), regression=regression)
    upper_weights = nested(INPUTS).routing.weights
    weights = torch.cat([upper_weights[:, [i]] * lower[i](INPUTS).routing.weights for i in range(2)], dim=1)

    class LogarithmsOf(nn.Module):
        def forward(self, inputs):
            return weights.log()

    flat = RoutedMixture(members, LogarithmsOf(), regression=regression)
    torch.testing.assert_close(nested(INPUTS).logits, flat(INPUTS).logits)


def test_branches_below_run_on_the_rows_that_are_sent_down():
    members = make(4, make_network=Counting)
    lower = [
        RoutedMixture(members[half], router(2, seed=seed), top_k=1, name=f"branch-{seed}")
        for seed, half in ((1, slice(2)), (2, slice(2, 4)))
    ]
    RoutedMixture(lower, router(2, seed=3), top_k=1)(INPUTS)
    assert sum(member.network.num_rows for member in members) == len(INPUTS)


def test_other_rows_of_the_batch_change_nothing():
    mixture = RoutedMixture(make(4), router(4, hidden_size=8), top_k=2)
    torch.testing.assert_close(mixture(INPUTS[:5]).logits, mixture(INPUTS).logits[:5])


def test_texts_and_estimators_are_routed_too():
    class Length(nn.Module):
        """Sends short texts to the first member, long ones to the second."""

        def forward(self, texts):
            return torch.tensor([[5.0 - len(text), len(text) - 5.0] for text in texts])

    class Says(nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, texts):
            assert all(isinstance(text, str) for text in texts)
            return torch.full((len(texts), 1), self.answer)

    members = [ModuleMember("short", Says(1.0)), ModuleMember("long", Says(2.0))]
    mixture = RoutedMixture(members, Length(), top_k=1, regression=True)
    assert mixture(["a", "a long text", "b"]).logits.tolist() == [[1.0], [2.0], [1.0]]

    rows, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    estimator = LogisticRegression().fit(rows, labels)
    experts = [EstimatorMember(name, estimator) for name in ("left", "right")]
    by_estimators = RoutedMixture(experts, EstimatorModule(estimator), top_k=1)
    torch.testing.assert_close(
        by_estimators(rows).logits.exp(), torch.from_numpy(estimator.predict_proba(rows)).float()
    )


def test_the_encoder_stays_as_it_is():
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5))
    scored = FeatureRouter(num_features=6, num_members=2, encoder=encoder)
    mixture = RoutedMixture(make(2), scored).train()
    assert mixture.members[0].training
    assert torch.equal(mixture.router(INPUTS), mixture.router(INPUTS))  # no dropout
    mixture(INPUTS).logits[:, 0].sum().backward()
    assert scored.scores.weight.grad is not None
    assert encoder[0].weight.grad is None


def test_a_routers_seed_makes_its_weights():
    assert torch.equal(router(3, seed=1)(INPUTS), router(3, seed=1)(INPUTS))
    assert not torch.equal(router(3, seed=1)(INPUTS), router(3, seed=2)(INPUTS))


def test_a_saved_router_chooses_as_before_bit_by_bit(tmp_path):
    members = make(4)
    mixture = RoutedMixture(members, router(4, hidden_size=8), top_k=2, normalize=False, space="logit", name="four")
    mixture.save_router(tmp_path)
    loaded = RoutedMixture.load(tmp_path, members, router(4, hidden_size=8, seed=1))
    assert torch.equal(loaded(INPUTS).logits, mixture(INPUTS).logits)
    assert (loaded.name, loaded.top_k, loaded.normalize) == ("four", 2, False)


def test_a_mixture_prints_its_members():
    expected = "RoutedMixture([member-0, member-1], FeatureRouter, top_k=1)"
    assert repr(RoutedMixture(make(2), router(2), top_k=1)) == expected
    assert repr(RoutedMixture(make(2), router(2))) == expected.replace("1)", "all)")


# bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"top_k": 3}, "top_k must be from 1 to num_members (2), got 3."),
        ({"top_k": 0}, "top_k must be from 1 to num_members (2), got 0."),
        ({"space": "text"}, "space must be one of probability, log_probability, logit, got 'text'."),
        (
            {"space": "probability", "regression": True},
            "A routed mixture in probability space takes the outputs for class scores; those of a regression are "
            "numbers. Leave space out, or use space='logit'.",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        RoutedMixture(make(2), router(2), **arguments)


def test_a_router_for_another_number_of_members_is_refused():
    sentence = (
        "The router gives 3 scores, and there are 2 members (member-0, member-1). Make it with one output a member."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        RoutedMixture(make(2), router(3))(INPUTS)


def test_features_that_the_batch_lacks_are_named():
    sentence = (
        "The router reads rows of 4 features, and was given a batch of shape (12, 2). Give it those features, make it "
        "with another num_features, or give it an encoder."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        RoutedMixture(make(2), router(2))(INPUTS[:, :2])


def test_members_with_different_outputs_are_named():
    members = [ModuleMember("small", nn.Linear(4, 2)), ModuleMember("large", nn.Linear(4, 3))]
    sentence = (
        "Members that meet at logits need the same outputs: small has 2, large has 3. Train them on the same classes."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        RoutedMixture(members, router(2))(INPUTS)


def test_the_row_that_broke_a_member_is_numbered_in_the_batch():
    class Broken(nn.Module):
        def forward(self, inputs):
            return torch.full((len(inputs), 2), float("nan"))

    class SecondRowOnly(nn.Module):
        def forward(self, inputs):
            return torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    members = [ModuleMember("sound", nn.Linear(4, 2)), ModuleMember("broken", Broken())]
    sentence = (
        "broken gives what is no number for 1 of 1 inputs, the first being number 1. Train it again with a lower "
        "learning rate, or leave it out."
    )
    with pytest.raises(MemberError, match=f"^{re.escape(sentence)}$"):
        RoutedMixture(members, SecondRowOnly(), top_k=1)(INPUTS[:2])


def test_a_router_is_not_loaded_for_other_members(tmp_path):
    members = make(2)
    RoutedMixture(members, router(2)).save_router(tmp_path)
    sentence = (
        f"{tmp_path}: the router was saved for the members member-0, member-1, and was given member-1, member-0. Give "
        "the same members in the same order."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        RoutedMixture.load(tmp_path, members[::-1], router(2))


def test_an_estimator_cannot_be_saved_as_a_router(tmp_path):
    estimator = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    sentence = (
        "The router (EstimatorModule) has no parameters that can be saved, as a fitted estimator has none. Fit a "
        "FeatureRouter or another network instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        RoutedMixture(make(2), EstimatorModule(estimator)).save_router(tmp_path)
