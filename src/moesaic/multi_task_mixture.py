"""Several tasks over one set of experts: each task has a router and a head of its own."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from moesaic.combiners import combine, top_k_routing
from moesaic.errors import IncompatibleMembersError
from moesaic.members import check_names
from moesaic.module_mixture import check_outputs, check_sizes, read_member, take_rows
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
    with its own head. The experts run once for all tasks, with ``top_k`` only on the rows that some task sends to them.
    With one task that is a mixture of experts with a head on top; with routers that say the same it is a shared bottom.

    Args:
        experts: They read the same inputs, and give the same number of features.
        routers: Each task's router, by the task's name: maps what the experts read to one score an expert, such as a
            :class:`moesaic.routed_mixture.FeatureRouter`.
        heads: Each task's head, by the task's name: maps features to class scores, or to numbers.
        regression: Tasks whose outputs are numbers, not class scores.
        top_k: Number of experts that a task asks about each row; ``None`` asks all.
        normalize: Rescale the kept weights to sum to 1.

    Attributes:
        log_variances: One a task, in the order of the heads: what uncertainty weighting learns
            (:class:`moesaic.training.MultiTaskObjective`); not used otherwise.

    Raises:
        ValueError: If there is no expert or no task, two experts have one name, a task has a router and no head or a
            head and no router, a task of ``regression`` is not there, or ``top_k`` is not between 1 and the number of
            experts.

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
        top_k: int | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.member_names = [expert.name for expert in experts]
        check_names(self.member_names)
        _check_tasks(routers, heads, regression)
        if top_k is not None and not 1 <= top_k <= len(experts):
            raise ValueError(f"top_k must be from 1 to num_members ({len(experts)}), got {top_k}.")
        self.top_k = top_k
        self.normalize = normalize
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
        routings = {task: self._route(task, inputs) for task in self.heads}
        features = self._ask(inputs, routings).unsqueeze(2)  # (member, batch, 1, feature)
        outputs = {}
        for task, routing in routings.items():
            mixed = combine(features, routing.weights.unsqueeze(1), "logit").squeeze(1)
            outputs[task] = TaskOutput(self.heads[task](mixed), routing)
        return outputs

    def _route(self, task: str, inputs: tuple[Any, ...]) -> Routing:
        router_logits = read_member(self.routers[task], inputs)
        if router_logits.shape[-1] != len(self.members):
            raise IncompatibleMembersError(
                f"The router of {task!r} gives {router_logits.shape[-1]} scores, and there are {len(self.members)} "
                f"experts ({', '.join(self.member_names)}). Make it with one output an expert."
            )
        if self.top_k is None:
            return Routing.dense(router_logits)
        return top_k_routing(router_logits, top_k=self.top_k, normalize=self.normalize)

    def _ask(self, inputs: tuple[Any, ...], routings: Mapping[str, Routing]) -> Float[Tensor, "member batch feature"]:
        """Have each expert read the rows that some task sends to it; its features of the others are zeros."""
        num_rows = len(next(iter(routings.values())).top_k_index)
        outputs: dict[str, tuple[Tensor, Tensor]] = {}
        for number, (name, member) in enumerate(zip(self.member_names, self.members, strict=True)):
            is_sent = torch.stack([(routing.top_k_index == number).any(dim=1) for routing in routings.values()])
            rows = is_sent.any(dim=0).nonzero().squeeze(1)
            if len(rows):
                output = (
                    read_member(member, inputs if len(rows) == num_rows else take_rows(inputs, rows))
                    .float()
                    .to(rows.device)
                )
                check_outputs(name, output, regression=True, rows=rows)
                outputs[name] = rows, output
        check_sizes({name: output.shape[-1] for name, (_, output) in outputs.items()})
        _, first = next(iter(outputs.values()))
        nothing = first.new_zeros(num_rows, first.shape[-1])
        return torch.stack(
            [nothing.index_copy(0, *outputs[name]) if name in outputs else nothing for name in self.member_names]
        )

    def save(self, folder: str | Path) -> None:
        """Write how experts are chosen as JSON; experts, routers and heads as safetensors, what they share once.

        An expert without parameters, as a fitted estimator is one, is not saved; give it to :meth:`load` as it is.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            "members": self.member_names,
            "tasks": self.tasks,
            "regression": sorted(self.regression),
            "top_k": self.top_k,
            "normalize": self.normalize,
        }
        (folder / "mixture.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "mixture.safetensors"))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        experts: Sequence[Member],
        routers: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
    ) -> MultiTaskMixture:
        """Make the mixture that :meth:`save` wrote.

        Args:
            folder: Where it was written.
            experts: Experts of the same shapes, by the names and in the order that they had.
            routers: Routers of the same shapes, by their tasks.
            heads: Heads of the same shapes, by their tasks and in the order that they had. The parameters of all three
                are replaced in place.

        Raises:
            IncompatibleMembersError: If experts or tasks are called otherwise.
        """
        described = json.loads((Path(folder) / "mixture.json").read_text(encoding="utf-8"))
        saved = {"experts": described.pop("members"), "tasks": described.pop("tasks")}
        given = {"experts": [expert.name for expert in experts], "tasks": list(heads)}
        for kind, names in given.items():
            if names != saved[kind]:
                raise IncompatibleMembersError(
                    f"{folder}: the mixture was saved with the {kind} {', '.join(saved[kind])}, and was given "
                    f"{', '.join(names)}. Give the same {kind} in the same order."
                )
        mixture = cls(experts, routers, heads, **described)
        load_model(mixture, str(Path(folder) / "mixture.safetensors"))
        return mixture

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
