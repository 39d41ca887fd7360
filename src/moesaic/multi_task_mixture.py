"""Several tasks over one set of experts: each task has a router and a head of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moesaic.combiners import combine
from moesaic.errors import IncompatibleMembersError
from moesaic.module_mixture import check_names, check_outputs, check_sizes, read_member
from moesaic.types import Member, Routing


@dataclass(frozen=True)
class TaskOutput:
    """What a mixture answers to one task, and why.

    Attributes:
        logits: Class scores, or regression outputs.
        routing: What each expert counted for in this task.
    """

    logits: Float[Tensor, "batch output"]
    routing: Routing


class MultiTaskMixture(nn.Module):
    """A multi-gate mixture of experts: tasks share experts as far as their routers find that they have use for them.

    ``y_t = head_t(Σ_m g_tm(x) f_m(x))``: the experts give features, which each task sums with its own weights and reads
    with its own head. The experts run once for all tasks. With one task that is a mixture of experts with a head on
    top; with routers that say the same it is a shared bottom.

    Args:
        experts: They read the same inputs, and give the same number of features.
        routers: Each task's router, by the task's name: maps what the experts read to one score an expert, such as a
            :class:`moesaic.routed_mixture.FeatureRouter`.
        heads: Each task's head, by the task's name: maps features to class scores, or to numbers.
        regression: Tasks whose outputs are numbers, not class scores.

    Attributes:
        log_variances: One a task, in the order of the heads: what uncertainty weighting learns
            (:class:`moesaic.training.MultiTaskObjective`); not used otherwise.

    Raises:
        ValueError: If there is no expert or no task, two experts have one name, a task has a router and no head or a
            head and no router, or a task of ``regression`` is not there.

    Example:
        >>> from moesaic.members import ModuleMember
        >>> from moesaic.routed_mixture import FeatureRouter
        >>> experts = [ModuleMember(name, nn.Linear(4, 8)) for name in ("a", "b", "c")]
        >>> routers = {task: FeatureRouter(num_features=4, num_members=3) for task in ("topic", "length")}
        >>> heads = {"topic": nn.Linear(8, 5), "length": nn.Linear(8, 1)}
        >>> mixture = MultiTaskMixture(experts, routers, heads, regression=["length"])
        >>> {task: tuple(output.logits.shape) for task, output in mixture(torch.zeros(2, 4)).items()}
        {'topic': (2, 5), 'length': (2, 1)}

    Reference: Ma et al. (2018), Modeling task relationships in multi-task learning with multi-gate mixture-of-experts,
    section 4.2, https://doi.org/10.1145/3219819.3220007
    """

    def __init__(
        self,
        experts: Sequence[Member],
        routers: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        *,
        regression: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.member_names = [expert.name for expert in experts]
        check_names(self.member_names)
        _check_tasks(routers, heads, regression)
        self.members = nn.ModuleList([expert.network for expert in experts])
        self.heads = nn.ModuleDict(heads)
        self.routers = nn.ModuleDict({task: routers[task] for task in heads})
        self.regression = frozenset(regression)
        self.log_variances = nn.Parameter(torch.zeros(len(heads)))

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of the heads."""
        return list(self.heads)

    def forward(self, *inputs: Any) -> dict[str, TaskOutput]:
        """Answer every task.

        Raises:
            IncompatibleMembersError: If experts differ in their features, or a router has not one score an expert.
            MemberError: If an expert gives something that is not a number.
        """
        features = [read_member(member, inputs).float() for member in self.members]
        check_sizes({name: part.shape[-1] for name, part in zip(self.member_names, features, strict=True)})
        for name, part in zip(self.member_names, features, strict=True):
            check_outputs(name, part, regression=True)
        stacked = torch.stack(features).unsqueeze(2)  # (member, batch, 1, feature)
        return {task: self._answer(task, inputs, stacked) for task in self.heads}

    def _answer(
        self, task: str, inputs: tuple[Any, ...], features: Float[Tensor, "member batch 1 feature"]
    ) -> TaskOutput:
        router_logits = read_member(self.routers[task], inputs)
        if router_logits.shape[-1] != len(self.members):
            raise IncompatibleMembersError(
                f"The router of {task!r} gives {router_logits.shape[-1]} scores, and there are {len(self.members)} "
                f"experts ({', '.join(self.member_names)}). Make it with one output an expert."
            )
        routing = Routing.dense(router_logits)
        mixed = combine(features, routing.top_k_weights.unsqueeze(1), "logit").squeeze(1)
        return TaskOutput(self.heads[task](mixed), routing)

    def for_task(self, task: str) -> OneTask:
        """The mixture as a model of one task, which may be scored, or be a member of another mixture.

        Raises:
            ValueError: If the task has no head.
        """
        check_heads([task], self)
        return OneTask(self, task)

    def __repr__(self) -> str:
        return f"MultiTaskMixture([{', '.join(self.member_names)}], tasks=[{', '.join(self.tasks)}])"


class OneTask(nn.Module):
    """One task of a mixture; made by :meth:`MultiTaskMixture.for_task`.

    Args:
        mixture: All tasks.
        task: The one that is answered.
    """

    def __init__(self, mixture: MultiTaskMixture, task: str) -> None:
        super().__init__()
        self.mixture = mixture
        self.task = task

    def forward(self, *inputs: Any) -> TaskOutput:
        """Answer the task; see :meth:`MultiTaskMixture.forward`."""
        output: TaskOutput = self.mixture(*inputs)[self.task]
        return output


def check_heads(tasks: Sequence[str], mixture: MultiTaskMixture) -> None:
    """Refuse a task that a mixture cannot answer.

    Raises:
        ValueError: If it has no head.
    """
    for task in tasks:
        if task not in mixture.heads:
            raise ValueError(
                f"The task {task!r} has no head; those with one are {', '.join(mixture.tasks)}. Make the mixture with "
                "a router and a head for it, or leave the task out."
            )


def _check_tasks(routers: Mapping[str, nn.Module], heads: Mapping[str, nn.Module], regression: Collection[str]) -> None:
    if not heads and not routers:
        raise ValueError("A multi-task mixture needs at least one task, got none.")
    for task in routers:
        if task not in heads:
            raise ValueError(f"The task {task!r} has a router and no head. Give it one in heads, or leave it out.")
    for task in heads:
        if task not in routers:
            raise ValueError(f"The task {task!r} has a head and no router. Give it one in routers, or leave it out.")
    for task in regression:
        if task not in heads:
            raise ValueError(f"regression names {task!r}, and the tasks are {', '.join(heads)}. Name one of these.")
