import math
import re

import pytest
import torch
from torch import nn

from moesaic.data import ExampleBatch, Examples
from moesaic.members import ModuleMember
from moesaic.multi_task_mixture import MultiTaskMixture
from moesaic.routed_mixture import FeatureRouter
from moesaic.training import (
    MultiTaskObjective,
    RouterBalance,
    TrainingOptions,
    accuracy,
    fit,
    predict_logits,
    sample_examples,
)

TASKS = ("side", "distance")
NOT_KNOWN = float("nan")


class Constant(nn.Module):
    """Says the same of every input."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.Parameter(torch.tensor(outputs))

    def forward(self, inputs):
        return self.outputs.expand(len(inputs), -1)


def constant_mixture():
    """Says (0.8, 0.2) of the side, and 3 of the distance."""
    routers = {task: Constant(0.0) for task in TASKS}
    heads = {"side": Constant(math.log(0.8), math.log(0.2)), "distance": Constant(3.0)}
    return MultiTaskMixture([ModuleMember("only", nn.Linear(1, 2))], routers, heads, regression=["distance"])


def batch(*labels, **arguments):
    return ExampleBatch((torch.zeros(len(labels), 1),), torch.tensor(labels), **arguments)


def test_equal_tasks_are_added():
    losses = MultiTaskObjective(TASKS)(constant_mixture(), batch([0.0, 5.0]))
    assert losses.parts["side/loss"].item() == pytest.approx(-math.log(0.8))
    assert losses.parts["distance/loss"].item() == pytest.approx(4.0)  # (5 - 3)²
    assert losses.total.item() == pytest.approx(-math.log(0.8) + 4)


def test_columns_stand_in_the_order_of_the_objectives_tasks():
    swapped = MultiTaskObjective(TASKS[::-1])(constant_mixture(), batch([5.0, 0.0]))
    assert swapped.total.item() == pytest.approx(-math.log(0.8) + 4)


def test_a_row_without_a_label_counts_for_the_other_tasks_alone():
    losses = MultiTaskObjective(TASKS)(constant_mixture(), batch([0.0, NOT_KNOWN], [1.0, 5.0]))
    assert losses.parts["side/loss"].item() == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert losses.parts["distance/loss"].item() == pytest.approx(4.0)


def test_a_batch_without_any_label_of_a_task_costs_nothing_there():
    mixture = constant_mixture()
    losses = MultiTaskObjective(TASKS)(mixture, batch([0.0, NOT_KNOWN]))
    assert losses.parts["distance/loss"].item() == 0
    losses.total.backward()
    assert mixture.heads["distance"].outputs.grad.item() == 0


def test_examples_count_by_their_weights():
    losses = MultiTaskObjective(TASKS)(
        constant_mixture(), batch([0.0, 5.0], [1.0, 9.0], weights=torch.tensor([2.0, 0]))
    )
    assert losses.total.item() == pytest.approx(-math.log(0.8) + 4)


def test_uncertainty_divides_each_loss_by_its_variance():
    mixture = constant_mixture()
    with torch.no_grad():
        mixture.log_variances.copy_(torch.tensor([2.0, 4.0]).log())
    total = MultiTaskObjective(TASKS, "uncertainty")(mixture, batch([0.0, 5.0])).total
    expected = -math.log(0.8) / 2 + 0.5 * math.log(2) + 4 / (2 * 4) + 0.5 * math.log(4)
    assert total.item() == pytest.approx(expected)


def test_the_variance_that_is_learned_is_that_of_the_errors():
    # loss / (2 v) + log(v) / 2 is lowest at v = loss; the squared error is 4
    mixture = constant_mixture()
    mixture.requires_grad_(False)
    mixture.log_variances.requires_grad_(True)
    optimizer = torch.optim.Adam([mixture.log_variances], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        MultiTaskObjective(TASKS, "uncertainty")(mixture, batch([0.0, 5.0])).total.backward()
        optimizer.step()
    assert mixture.log_variances[1].exp().item() == pytest.approx(4.0, rel=1e-2)


def test_balance_losses_are_those_of_each_tasks_router():
    balance = RouterBalance(router_z_loss_coef=0.5)
    losses = MultiTaskObjective(TASKS, balance=balance)(constant_mixture(), batch([0.0, 5.0]))
    assert list(losses.parts) == ["side/loss", "side/router_z", "distance/loss", "distance/router_z"]


@pytest.mark.parametrize("weighting", ["equal", "uncertainty"])
def test_tasks_in_different_units_are_learned_together(weighting):
    torch.manual_seed(0)
    inputs = torch.linspace(-2, 2, 80).unsqueeze(1)
    labels = torch.cat([(inputs > 0).float(), 30 * inputs.abs()], dim=1)
    experts = [ModuleMember(str(number), nn.Sequential(nn.Linear(1, 8), nn.ReLU())) for number in range(3)]
    routers = {task: FeatureRouter(num_features=1, num_members=3) for task in TASKS}
    heads = {"side": nn.Linear(8, 2), "distance": nn.Linear(8, 1)}
    mixture = MultiTaskMixture(experts, routers, heads, regression=["distance"])
    options = TrainingOptions(num_steps=300, batch_size=40, learning_rate=0.1, weight_decay=0.0, checkpoint_every=0)
    sampler = sample_examples(mixture, Examples(inputs, labels), batch_size=40, seed=0)
    fit(mixture, sampler, MultiTaskObjective(TASKS, weighting), options)
    assert accuracy(predict_logits(mixture.for_task("side"), inputs), (inputs > 0).squeeze(1).long()) > 0.95
    distance = predict_logits(mixture.for_task("distance"), inputs)
    assert (distance - labels[:, 1:]).abs().mean() < 5


# bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tasks": ()}, "tasks must name each column of the labels once, got []."),
        ({"tasks": ("a", "a")}, "tasks must name each column of the labels once, got ['a', 'a']."),
        ({"tasks": ("a",), "weighting": "loud"}, "weighting must be one of equal, uncertainty, got 'loud'."),
    ],
)
def test_objectives_that_make_no_sense_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        MultiTaskObjective(**arguments)


def test_a_task_without_a_head_is_refused():
    sentence = (
        "The task 'mood' has no head; those with one are side, distance. Make the mixture with a router and a head for "
        "it, or leave the task out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        MultiTaskObjective(("side", "mood"))(constant_mixture(), batch([0.0, 1.0]))


def test_labels_have_one_column_a_task():
    sentence = "The labels must have one column for each of the tasks side, distance, got the shape (1, 1)."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        MultiTaskObjective(TASKS)(constant_mixture(), batch([0.0]))


def test_routers_that_cannot_learn_are_refused_before_training():
    def make(**arguments):
        experts = [ModuleMember(name, nn.Linear(1, 2)) for name in ("a", "b")]
        routers = {task: FeatureRouter(num_features=1, num_members=2) for task in TASKS}
        heads = {"side": nn.Linear(2, 2), "distance": nn.Linear(2, 1)}
        return MultiTaskMixture(experts, routers, heads, regression=["distance"], top_k=1, **arguments)

    sentence = (
        "With top_k=1 and normalize=True every chosen expert has the weight 1, so the routers cannot learn. Use "
        "normalize=False, or train with top_k=None or 2 and set mixture.top_k to 1 afterwards."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        MultiTaskObjective(TASKS)(make(), batch([0.0, 5.0]))
    MultiTaskObjective(TASKS)(make(normalize=False), batch([0.0, 5.0]))
    MultiTaskObjective(TASKS)(make().requires_grad_(False), batch([0.0, 5.0]))
