"""The road of a task: which stages its recipe has, what each depends on, and in which order they are done."""

from __future__ import annotations

from functools import partial
from typing import Any

from moesaic.recipe.build import data_settings
from moesaic.recipe.folder import Stage
from moesaic.recipe.task_build import dense_steps, task_dense_stage, task_dense_steps
from moesaic.recipe.task_comparison import compare
from moesaic.recipe.task_schema import BalanceSection, TaskRecipe
from moesaic.recipe.task_systems import System, plan_systems
from moesaic.recipe.task_work import TaskWork


def plan_task_road(work: TaskWork) -> list[Stage]:
    """All stages of a task recipe; settings are as in :func:`moesaic.recipe.road.plan_road`."""
    stages = [Stage("data", work.prepare_data, _data_settings(work)), *_experts(work), *_mixture(work)]
    systems = plan_systems(work)
    answers = [_answers(work, system) for system in systems]
    arena: dict[str, Any] = {"num_resamples": work.recipe.arena.num_resamples}
    if work.recipe.arena.metrics is not None:
        arena["metrics"] = work.recipe.arena.metrics
    needs = ("data", *(stage.name for stage in answers))
    stages += [*answers, Stage("arena", partial(compare, work, systems), arena, needs)]
    text = {"recipe": work.loaded.text}
    stages.append(Stage("export", work.export, text, ("arena", work.final_stage), place="model"))
    return stages


def _experts(work: TaskWork) -> list[Stage]:
    """The model that all start at, where one is wanted; one of each domain, the dense ones of tasks with several, and
    the dense one of all; then further members of the domains, which no other stage waits for.
    """
    recipe = work.recipe
    common = {"model": recipe.model.model_dump(), "random_seed": recipe.random_seed}
    seed = recipe.seed.model_dump() | common | _balance(recipe)
    needs = ("data", "seed") if work.has_seed else ("data",)
    settings = recipe.experts.training.model_dump() | common
    members = [
        Stage(
            stage,
            partial(work.train_expert, index, member),
            settings | {"index": index, "member": member},
            needs,
            shared=True,
        )
        for index in range(len(recipe.domain_names))
        for member, stage in enumerate(work.member_stages(index))
    ]
    stages = [stage for stage in members if stage.name in work.expert_stages]
    further = [stage for stage in members if stage.name not in work.expert_stages]
    if work.has_seed:
        stages.insert(0, Stage("seed", work.train_seed, seed, ("data",), shared=True))
    if not recipe.has_dense:
        return stages + further
    for task, domains in recipe.shared_tasks.items():
        its = {"num_steps": task_dense_steps(recipe, task), "domains": domains}
        train = partial(work.train_task_dense, task)
        stages.append(Stage(task_dense_stage(task), train, settings | its | _balance(recipe), needs, shared=True))
    dense = settings | {"num_steps": dense_steps(recipe)} | _balance(recipe)
    return [*stages, Stage("dense", work.train_dense, dense, needs, shared=True), *further]


def _mixture(work: TaskWork) -> list[Stage]:
    """The router, and the joint training where it is wanted."""
    recipe = work.recipe
    router = recipe.router.model_dump() | {
        "checkpoints": recipe.given_experts,
        "random_seed": recipe.random_seed,
        **_balance(recipe),
    }
    stages = [Stage("router", work.train_router, router, ("data", *work.expert_stages), shared=True)]
    if recipe.joint.num_steps:
        joint = recipe.joint.model_dump() | {"random_seed": recipe.random_seed} | _balance(recipe)
        stages.append(Stage("joint", work.train_jointly, joint, ("data", "router"), shared=True))
    return stages


def _answers(work: TaskWork, system: System) -> Stage:
    """The stage in which a system answers the test rows: again when what it is made of or how it writes changes."""
    settings: dict[str, Any] = work.recipe.decoding.model_dump() | {
        "max_source_tokens": work.recipe.data.max_source_tokens,
        "max_target_tokens": work.recipe.data.max_target_tokens,
        "checkpoints": work.recipe.given_experts,
        "domains": list(system.domains),
    }
    needs = ("data", *system.needs)
    return Stage(
        f"answers: {system.name}",
        partial(work.write_answers, system.build, system.domains),
        settings,
        needs,
        place=work.answers_place(system.name),
    )


def _data_settings(work: TaskWork) -> dict[str, Any]:
    recipe = work.recipe
    tokenizer = next(iter(recipe.experts.checkpoints.values()), None)
    return data_settings(recipe.data, work.loaded.path.parent) | {
        **work.kind.data_settings,
        **_task_settings(recipe),
        "tokenizer": tokenizer,
        "max_examples": recipe.arena.max_examples,
    }


def _balance(recipe: TaskRecipe) -> dict[str, Any]:
    """How domains count; nothing where all count as they come, so that stages that are older stay valid."""
    return {} if recipe.balance == BalanceSection() else {"balance": recipe.balance.model_dump()}


def _task_settings(recipe: TaskRecipe) -> dict[str, Any]:
    if recipe.task is not None:
        return {"task": recipe.task.model_dump()}
    return {"tasks": {name: section.model_dump() for name, section in recipe.named_tasks.items()}}
