import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from moesaic.data import ExampleBatch, Examples
from moesaic.members import ModuleMember
from moesaic.routed_mixture import FeatureRouter, RoutedMixture
from moesaic.training import (
    MixtureObjective,
    RouterBalance,
    TrainingOptions,
    accuracy,
    fit,
    predict_logits,
    sample_examples,
)


class Constant(nn.Module):
    """Says the same of every input."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.Parameter(torch.tensor(outputs))

    def forward(self, inputs):
        return self.outputs.expand(len(inputs), -1)


def two_members(first, second, gates, **arguments):
    """A mixture of two members that say the same of every input, weighed by gates that do not change."""
    members = [ModuleMember("first", Constant(*first)), ModuleMember("second", Constant(*second))]
    return RoutedMixture(members, Constant(*torch.tensor(gates).log().tolist()), **arguments)


CLASSES = two_members([math.log(0.8), math.log(0.2)], [math.log(0.4), math.log(0.6)], [0.25, 0.75])
NUMBERS = two_members([4.0], [8.0], [0.25, 0.75], regression=True)
CLASS_ZERO = ExampleBatch((torch.zeros(1, 1),), torch.tensor([0]))
FIVE = ExampleBatch((torch.zeros(1, 1),), torch.tensor([5.0]))


def gaussian(distance, scale):
    return math.exp(-0.5 * (distance / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("likelihood", -math.log(0.25 * 0.8 + 0.75 * 0.4)),
        ("competitive", -0.25 * math.log(0.8) - 0.75 * math.log(0.4)),
        ("cooperative", -math.log(0.25 * 0.8 + 0.75 * 0.4)),  # in probability space the sum is the mixture
    ],
)
def test_the_losses_of_classifiers(loss, expected):
    losses = MixtureObjective(loss)(CLASSES, CLASS_ZERO)
    assert losses.total.item() == pytest.approx(expected)
    assert losses.parts["nats"].item() == pytest.approx(expected)


def test_the_cooperative_loss_of_scores_is_that_of_their_sum():
    mixture = two_members([2.0, 0.0], [0.0, 4.0], [0.5, 0.5], space="logit")
    # the sum is (1, 2): -log(e / (e + e²)) = log(1 + e)
    assert MixtureObjective("cooperative")(mixture, CLASS_ZERO).total.item() == pytest.approx(math.log(1 + math.e))


@pytest.mark.parametrize(
    ("loss", "name", "expected"),
    [
        # the members are off by -1 and 3, their weighted mean, 7, by 2
        ("likelihood", "nats", -math.log(0.25 * gaussian(1, 2) + 0.75 * gaussian(3, 2))),
        ("competitive", "squared_error", 0.25 * 1 + 0.75 * 9),
        ("cooperative", "squared_error", 4.0),
    ],
)
def test_the_losses_of_regressors(loss, name, expected):
    losses = MixtureObjective(loss, noise_scale=2.0)(NUMBERS, FIVE)
    assert losses.total.item() == pytest.approx(expected)
    assert list(losses.parts) == [name]


def test_two_outputs_have_the_density_of_two_gaussians():
    mixture = two_members([1.0, 0.0], [0.0, 1.0], [0.5, 0.5], regression=True)
    batch = ExampleBatch((torch.zeros(1, 1),), torch.tensor([[1.0, 0.0]]))
    expected = -math.log(0.5 * gaussian(0, 1) ** 2 + 0.5 * gaussian(1, 1) ** 2)
    assert MixtureObjective()(mixture, batch).total.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["likelihood", "competitive", "cooperative"])
def test_examples_count_by_their_weights(loss):
    batch = ExampleBatch((torch.zeros(2, 1),), torch.tensor([0, 1]), weights=torch.tensor([2.0, 0.0]))
    expected = MixtureObjective(loss)(CLASSES, CLASS_ZERO).total.item()
    assert MixtureObjective(loss)(CLASSES, batch).total.item() == pytest.approx(expected)


def test_a_members_gradient_is_its_own_times_its_responsibility():
    CLASSES.zero_grad()
    MixtureObjective()(CLASSES, CLASS_ZERO).total.backward()
    # the first accounts for 0.25 · 0.8 = 0.2 of 0.5; its own gradient is p - target = (0.8 - 1, 0.2)
    torch.testing.assert_close(CLASSES.members[0].outputs.grad, 0.4 * torch.tensor([-0.2, 0.2]))
    # the router moves from what it says (0.25, 0.75) to the responsibilities (0.4, 0.6)
    torch.testing.assert_close(CLASSES.router.outputs.grad, torch.tensor([0.25 - 0.4, 0.75 - 0.6]))


def test_with_some_members_asked_the_sums_are_over_those():
    mixture = two_members([math.log(0.8), math.log(0.2)], [math.log(0.4), math.log(0.6)], [0.25, 0.75], top_k=1)
    mixture.router.requires_grad_(False)  # it cannot learn here, and is not to
    assert MixtureObjective()(mixture, CLASS_ZERO).total.item() == pytest.approx(-math.log(0.4))


def test_balance_losses_are_added_with_their_coefficients():
    balance = RouterBalance(router_aux_loss_coef=0.5, router_entropy_loss_coef=0.1)
    plain = MixtureObjective()(CLASSES, CLASS_ZERO)
    losses = MixtureObjective(balance=balance)(CLASSES, CLASS_ZERO)
    # all rows prefer the second member: 2 · (0 · 0.25 + 1 · 0.75) = 1.5
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert losses.parts["load_balance"].item() == pytest.approx(1.5)
    assert losses.parts["router_entropy"].item() == pytest.approx(entropy)
    assert losses.total.item() == pytest.approx(plain.total.item() + 0.5 * 1.5 + 0.1 * entropy)
    assert list(losses.parts) == ["nats", "load_balance", "router_entropy"]


@pytest.mark.parametrize("loss", ["likelihood", "competitive", "cooperative"])
def test_a_mixture_of_lines_learns_what_no_line_can(loss):
    # class 1 lies between the two ends, where class 0 is
    inputs = torch.linspace(-2, 2, 80).unsqueeze(1)
    examples = Examples(inputs, (inputs.squeeze(1).abs() < 1).long())
    options = TrainingOptions(num_steps=200, batch_size=40, learning_rate=0.1, weight_decay=0.0, checkpoint_every=0)
    torch.manual_seed(0)
    members = [ModuleMember(str(number), nn.Linear(1, 2)) for number in range(2)]
    mixture = RoutedMixture(members, FeatureRouter(num_features=1, num_members=2))
    sampler = sample_examples(mixture, examples, batch_size=40, seed=0)
    fit(mixture, sampler, MixtureObjective(loss), replace(options))
    assert accuracy(predict_logits(mixture, inputs), examples.labels) > 0.95


# bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"loss": "vote"}, "loss must be one of likelihood, competitive, cooperative, got 'vote'."),
        ({"noise_scale": 0.0}, "noise_scale must be above 0, got 0."),
    ],
)
def test_losses_that_do_not_exist_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        MixtureObjective(**arguments)


@pytest.mark.parametrize(
    ("loss", "normalize", "reason"),
    [
        ("competitive", True, "normalize=True gives the member that is chosen the weight 1"),
        (
            "likelihood",
            False,
            "the likelihood is then highest where the weight of the chosen member is, whoever that is",
        ),
        ("cooperative", False, "probabilities are rescaled to sum to 1, which takes the weight out of the loss"),
    ],
)
def test_a_router_that_cannot_learn_says_so_before_training(loss, normalize, reason):
    mixture = two_members([0.0, 1.0], [1.0, 0.0], [0.25, 0.75], top_k=1, normalize=normalize)
    sentence = (
        f"With top_k=1 the router cannot learn from the {loss} loss: {reason}. Train with top_k=None or 2 and set "
        "mixture.top_k to 1 afterwards, or use normalize=False with the competitive loss."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        MixtureObjective(loss)(mixture, CLASS_ZERO)


@pytest.mark.parametrize(("loss", "space"), [("competitive", "probability"), ("cooperative", "logit")])
def test_gradients_reach_the_router_of_one_member_a_row(loss, space):
    mixture = two_members([0.0, 1.0], [1.0, 0.0], [0.25, 0.75], top_k=1, normalize=False, space=space)
    MixtureObjective(loss)(mixture, CLASS_ZERO).total.backward()
    assert mixture.router.outputs.grad.abs().sum() > 0
