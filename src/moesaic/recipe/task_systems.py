"""Everything that a task recipe compares: its experts, the models of everything, ensembles and mixtures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from moesaic.answering import Answerer
from moesaic.arena import Kind
from moesaic.recipe.task_build import expert_pairs, joint_pairs, task_dense_stage
from moesaic.recipe.task_work import TaskWork

DENSE = "dense, same total pairs"
AVERAGE = "average of the experts"
ORACLE = "own expert (domain known)"
ROUTED = "mixture, one expert a source"
JOINT = "mixture, trained jointly"


@dataclass(frozen=True)
class System:
    """Something that answers: one row of the table, or a part of one.

    Attributes:
        name: What it is called.
        kind: What it is.
        needs: The stages that it is made of.
        build: Loads it.
        training_pairs: Pairs that it was trained on, its members included; a pair counts as often as it was read.
        domains: The domains that it is asked about.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    build: Callable[[], Answerer]
    training_pairs: int
    domains: tuple[str, ...]


def plan_systems(work: TaskWork) -> list[System]:
    """Everything that answers, in the order of the table; the experts come first, in the order of the domains."""
    recipe, names = work.recipe, work.recipe.domain_names
    pairs = partial(expert_pairs, recipe)
    found = [
        System(
            f"expert {name}",
            "expert",
            work.expert_stages[index : index + 1],
            partial(work.kind.load, place),
            pairs(1),
            names,
        )
        for index, (name, place) in enumerate(zip(names, work.expert_places(), strict=True))
    ]
    for task, domains in recipe.shared_tasks.items():
        stage = task_dense_stage(task)
        found.append(_of_stage(work, task_dense_name(task), "reference", stage, pairs(len(domains)), domains))
    if recipe.has_dense:
        found.append(_of_stage(work, DENSE, "reference", "dense", joint_pairs(recipe), names))
    everything = pairs(len(names))
    if work.kind.can_average:
        build = partial(_average, work)
        found.append(System(AVERAGE, "ensemble", work.expert_stages, build, everything, names))
    found.append(_of_stage(work, ROUTED, "mixture", "router", everything, names))
    if recipe.joint.num_steps:
        found.append(_of_stage(work, JOINT, "mixture", "joint", joint_pairs(recipe), names))
    return found + _members_and_ensembles(work)


def _members_and_ensembles(work: TaskWork) -> list[System]:
    """Further members of each domain, and the ensemble of all its members; each is asked about its own domain."""
    recipe, found = work.recipe, []
    for index, name in enumerate(recipe.domain_names):
        stages, count = work.member_stages(index), recipe.num_members_of(name)
        for number, stage in enumerate(stages[1:], start=2):
            member = member_name(number, name)
            found.append(_of_stage(work, member, "expert", stage, expert_pairs(recipe, 1), (name,)))
        if count > 1 and work.kind.can_average:
            build, pairs = partial(_ensemble, work, index), expert_pairs(recipe, count)
            found.append(System(ensemble_name(count, name), "ensemble", stages, build, pairs, (name,)))
    return found


def _of_stage(work: TaskWork, name: str, kind: Kind, stage: str, pairs: int, domains: tuple[str, ...]) -> System:
    return System(name, kind, (stage,), partial(work.load_answerer, stage), pairs, domains)


def _average(work: TaskWork) -> Answerer:
    return work.kind.average(work.experts(), range(len(work.recipe.domain_names)))


def _ensemble(work: TaskWork, index: int) -> Answerer:
    stages = work.member_stages(index)
    members = work.kind.load_all({stage: work.folder.stage_folder(stage) / "model" for stage in stages})
    return work.kind.average(members, [index])


def task_dense_name(task: str) -> str:
    """What the model of all domains of one task is called in the table."""
    return f"dense, {task} alone"


def member_name(member: int, domain: str) -> str:
    """What a further model of a domain is called in the table."""
    return f"expert {domain}, seed {member}"


def ensemble_name(num_members: int, domain: str) -> str:
    """What the ensemble of a domain's models is called in the table."""
    return f"ensemble of {num_members} ({domain})"
