import re

import pytest
import torch
from torch import nn

from moesaic.combiners import Average
from moesaic.errors import IncompatibleMembersError, MemberError
from moesaic.members import ModuleMember
from moesaic.module_mixture import ModuleMixture
from moesaic.multi_task_mixture import MultiTaskMixture
from moesaic.routed_mixture import FeatureRouter, RoutedMixture

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))


def experts(count=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [ModuleMember(f"expert-{number}", nn.Linear(4, 8)) for number in range(count)]


def router(seed, num_members=3):
    return FeatureRouter(num_features=4, num_members=num_members, seed=seed)


def make(**arguments):
    routers = {"topic": router(1), "length": router(2)}
    return MultiTaskMixture(experts(), routers, {"topic": nn.Linear(8, 5), "length": nn.Linear(8, 1)}, **arguments)


def test_each_task_sums_the_experts_with_its_own_weights():
    mixture = make(regression=["length"])
    outputs = mixture(INPUTS)
    for task, output in outputs.items():
        gates = mixture.routers[task](INPUTS).softmax(dim=1)
        mixed = sum(gates[:, [number]] * expert(INPUTS) for number, expert in enumerate(mixture.members))
        torch.testing.assert_close(output.logits, mixture.heads[task](mixed))
        torch.testing.assert_close(output.routing.weights, gates)
    assert not torch.allclose(outputs["topic"].routing.weights, outputs["length"].routing.weights)


def test_one_task_whose_head_changes_nothing_is_the_routed_mixture():
    one = MultiTaskMixture(experts(), {"only": router(1)}, {"only": nn.Identity()}, regression=["only"])
    expected = RoutedMixture(experts(), router(1), regression=True)(INPUTS).logits
    torch.testing.assert_close(one(INPUTS)["only"].logits, expected)


def test_the_experts_run_once_for_all_tasks():
    mixture = make()
    runs = []
    mixture.members[0].register_forward_hook(lambda *_: runs.append(1))
    mixture(INPUTS)
    assert runs == [1]


def test_gradients_of_a_task_reach_all_experts_and_its_own_router_alone():
    mixture = make()
    mixture(INPUTS)["topic"].logits.square().sum().backward()
    assert all(expert.weight.grad.abs().sum() > 0 for expert in mixture.members)
    assert mixture.routers["topic"].scores.weight.grad.abs().sum() > 0
    assert mixture.routers["length"].scores.weight.grad is None


def test_one_task_of_a_mixture_is_a_member_of_another():
    mixture = make()
    members = [ModuleMember("topic", mixture.for_task("topic")), ModuleMember("other", nn.Linear(4, 5))]
    logits = ModuleMixture(members, Average("logit"))(INPUTS).logits
    torch.testing.assert_close(logits, (mixture(INPUTS)["topic"].logits + members[1].network(INPUTS)) / 2)


def test_top_k_of_all_experts_is_the_dense_mixture():
    dense, sparse = make()(INPUTS), make(top_k=3)(INPUTS)
    for task in dense:
        torch.testing.assert_close(sparse[task].routing.weights, dense[task].routing.weights)


def test_an_expert_reads_the_rows_that_some_task_sends_to_it():
    mixture = make(top_k=1)
    read = {}
    for number, expert in enumerate(mixture.members):
        expert.register_forward_pre_hook(lambda _, inputs, number=number: read.update({number: inputs[0]}))
    outputs = mixture(INPUTS)
    for number in range(3):
        is_sent = torch.stack([(output.routing.top_k_index == number).any(1) for output in outputs.values()]).any(0)
        assert torch.equal(read.get(number, INPUTS[:0]), INPUTS[is_sent])
    for task, output in outputs.items():
        features = torch.stack([mixture.members[chosen](row) for row, (chosen,) in zip(
            INPUTS, output.routing.top_k_index.tolist(), strict=True
        )])  # fmt: skip
        torch.testing.assert_close(output.logits, mixture.heads[task](features))


def test_a_saved_mixture_is_the_same_when_loaded(tmp_path):
    mixture = make(regression=["length"], top_k=2, normalize=False)
    mixture.save(tmp_path)
    heads = {"topic": nn.Linear(8, 5), "length": nn.Linear(8, 1)}
    loaded = MultiTaskMixture.load(tmp_path, experts(), {"topic": router(7), "length": router(8)}, heads)
    for task, output in mixture(INPUTS).items():
        assert torch.equal(loaded(INPUTS)[task].logits, output.logits)
    assert (loaded.regression, loaded.top_k, loaded.normalize) == ({"length"}, 2, False)


def test_an_encoder_that_routers_share_is_saved_once(tmp_path):
    def shared():
        encoder = nn.Linear(4, 2)
        routers = {task: FeatureRouter(num_features=2, num_members=3, encoder=encoder) for task in ("a", "b")}
        return experts(), routers, {"a": nn.Linear(8, 2), "b": nn.Linear(8, 2)}

    mixture = MultiTaskMixture(*shared())
    mixture.save(tmp_path)
    loaded = MultiTaskMixture.load(tmp_path, *shared())
    assert torch.equal(loaded(INPUTS)["b"].logits, mixture(INPUTS)["b"].logits)


def test_a_mixture_prints_its_tasks():
    assert repr(make()) == "MultiTaskMixture([expert-0, expert-1, expert-2], tasks=[topic, length])"


# bad input


@pytest.mark.parametrize(
    ("routers", "heads", "regression", "sentence"),
    [
        ([], [], [], "A multi-task mixture needs at least one task, got none."),
        (["a", "b"], ["a"], [], "The task 'b' has a router and no head. Give it one in heads, or leave it out."),
        (["a"], ["a", "b"], [], "The task 'b' has a head and no router. Give it one in routers, or leave it out."),
        (["a"], ["a"], ["b"], "regression names 'b', and the tasks are a. Name one of these."),
    ],
)
def test_tasks_that_are_not_whole_are_refused(routers, heads, regression, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        MultiTaskMixture(
            experts(), {task: router(0) for task in routers}, {task: nn.Linear(8, 2) for task in heads},
            regression=regression,
        )  # fmt: skip


def test_a_task_without_a_head_is_not_answered():
    sentence = (
        "The task 'mood' has no head; those with one are topic, length. Make the mixture with a router and a head for "
        "it, or leave the task out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make().for_task("mood")


def test_a_router_for_another_number_of_experts_is_refused():
    mixture = MultiTaskMixture(experts(), {"topic": router(0, num_members=2)}, {"topic": nn.Linear(8, 2)})
    sentence = (
        "The router of 'topic' gives 2 scores, and there are 3 experts (expert-0, expert-1, expert-2). Make it with "
        "one output an expert."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        mixture(INPUTS)


def test_an_expert_that_gives_no_number_is_named():
    mixture = make()
    nn.init.constant_(mixture.members[1].bias, float("inf"))
    sentence = (
        "expert-1 gives what is no number for 6 of 6 inputs, the first being number 0. Train it again with a lower "
        "learning rate, or leave it out."
    )
    with pytest.raises(MemberError, match=f"^{re.escape(sentence)}$"):
        mixture(INPUTS)


@pytest.mark.parametrize("top_k", [0, 4])
def test_top_k_beyond_the_experts_is_refused(top_k):
    sentence = f"top_k must be from 1 to num_members (3), got {top_k}."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make(top_k=top_k)


def test_other_experts_or_tasks_than_were_saved_are_refused(tmp_path):
    make().save(tmp_path)
    routers = {"topic": router(1), "length": router(2)}
    heads = {"topic": nn.Linear(8, 5), "length": nn.Linear(8, 1)}
    sentence = (
        f"{tmp_path}: the mixture was saved with the experts expert-0, expert-1, expert-2, and was given expert-0, "
        "expert-1. Give the same experts in the same order."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        MultiTaskMixture.load(tmp_path, experts(2), routers, heads)
    sentence = (
        f"{tmp_path}: the mixture was saved with the tasks topic, length, and was given length. Give the same tasks in "
        "the same order."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        MultiTaskMixture.load(tmp_path, experts(), {"length": router(2)}, {"length": heads["length"]})
