"""The road: which stages a recipe has, what each depends on, and in which order they are done."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moesaic.arena import PlannedCost
from moesaic.planning import model_size
from moesaic.recipe import ensembles
from moesaic.recipe.build import data_settings, dense_steps, ensemble_training, other_choices
from moesaic.recipe.folder import Stage
from moesaic.recipe.line_up import Combination, line_up
from moesaic.recipe.preparing import prepare_data
from moesaic.recipe.schema import MixtureTrainingSection, Recipe
from moesaic.recipe.sizes import dense_config, mixture_config
from moesaic.recipe.spending import Spending, stage_spending, total_spending
from moesaic.recipe.work import Work
from moesaic.training import BoostingMethod


def plan_road(work: Work) -> list[Stage]:
    """All stages of a recipe.

    A stage's settings are its own part of the recipe and what it reads outside of the run; a change there does it
    again, and what needs it.
    """
    stages = [*_members(work), *_mixture(work)]
    combinations = line_up(work)
    needed = {name for combination in combinations for name in combination.needs}
    stages += [stage for stage in (*_other_choices(work), *_ensembles(work)) if stage.name in needed]
    costs = row_costs(work, combinations, stages)
    rows = [_row(work, combination, costs[combination.name]) for combination in combinations]
    folders = [work.folder.path / str(row.place) for row in rows]
    arena = {"num_resamples": work.recipe.arena.num_resamples, "random_seed": work.recipe.random_seed}
    collect = partial(work.collect_rows, folders)
    stages += [*rows, Stage("arena", collect, arena, tuple(row.name for row in rows))]
    text = {"recipe": work.loaded.text}
    stages.append(Stage("export", work.export, text, ("arena", work.final_stage), place="model"))
    trained = tuple(stage for stage in work.training_stages if stage != work.final_stage)
    needs = ("arena", work.final_stage, *trained)
    stages.append(Stage("report", work.report, text, needs, place="report"))
    return stages


def row_costs(work: Work, combinations: Sequence[Combination], stages: Sequence[Stage]) -> dict[str, Spending]:
    """What the training of each row costs, its members' included, by the row's name.

    Raises:
        BudgetError: If a row needs more than the recipe allows; all such rows are named.
    """
    spent = spent_by_stage(work)
    costs = {row.name: total_spending(row.needs, stages, spent) for row in combinations}
    if spent:
        planned = {name: PlannedCost(cost.tokens, cost.flops) for name, cost in costs.items()}
        work.budget.check_line_up(planned)
    return costs


def spent_by_stage(work: Work) -> dict[str, Spending]:
    """What each stage spends on training; empty where a problem with the checkpoints hides their size."""
    dense, _ = dense_config(work.loaded)
    if dense is None:
        return {}
    sparse = mixture_config(work.recipe, dense)
    return stage_spending(work.recipe, model_size(dense), model_size(sparse))


def _common(work: Work) -> dict[str, Any]:
    return {"sequence_length": work.recipe.data.sequence_length, "random_seed": work.recipe.random_seed}


def _members(work: Work) -> list[Stage]:
    """Text, seed and experts."""
    recipe, common = work.recipe, _common(work)
    settings = data_settings(work.recipe.data, work.loaded.path.parent) | {"tokenizer": work.tokenizer_source}
    stages = [Stage("data", partial(prepare_data, work), settings)]
    if work.has_seed:
        stages.append(Stage("seed", work.train_seed, recipe.seed.model_dump() | common, ("data",), shared=True))
    # Where no adapters are trained, they are no part of the key: runs from before there were any stay as they are.
    read = {"train", "training"} | ({"adapter"} if recipe.experts.train == "lora" else set())
    expert = recipe.experts.model_dump(include=read) | common
    for index, name in enumerate(work.expert_stages):
        train = partial(work.train_expert, index)
        stages.append(Stage(name, train, expert | {"index": index}, ("data", "seed"), shared=True))
    return stages


def _mixture(work: Work) -> list[Stage]:
    """The sparse mixture, and the dense model that reads as much."""
    recipe, common = work.recipe, _common(work)
    assembly: dict[str, Any] = recipe.assemble.model_dump() | common | {"checkpoints": recipe.experts.checkpoints}
    seed = ("seed",) if work.has_seed else ()
    stages = [Stage("assemble", work.assemble, assembly, ("data", *seed, *work.expert_stages))]
    before = "assemble"
    for name in work.mixture_stages:
        work_on = {"router": work.train_router, "joint": work.train_jointly}[name]
        stages.append(Stage(name, work_on, _mixture_settings(recipe, name) | common, ("data", before), shared=True))
        before = name
    if work.has_seed:
        dense = recipe.experts.training.model_dump() | common | {"num_steps": dense_steps(recipe)}
        stages.append(Stage("dense", work.train_dense, dense, ("data", "seed"), shared=True))
    return stages


def _mixture_settings(recipe: Recipe, stage: str) -> dict[str, Any]:
    """A stage's part of the recipe; where it says no choice, that is no part of the key, as before there were any."""
    section: MixtureTrainingSection = getattr(recipe, stage)
    return section.model_dump(exclude={"choice"} if section.choice is None else None)


def _other_choices(work: Work) -> list[Stage]:
    """Joint training with other choices, for the arena."""
    stages = []
    for name, choice in other_choices(work.recipe).items():
        train = partial(work.train_jointly, title=name, choice=choice)
        settings = _mixture_settings(work.recipe, "joint") | {"choice": choice.model_dump()} | _common(work)
        stages.append(Stage(name, train, settings, ("data", work.stage_before_joint), shared=True))
    return stages


def _ensembles(work: Work) -> list[Stage]:
    """Every ensemble that is trained; the arena decides which are wanted."""
    section, common = work.recipe.ensembles, _common(work)
    needs = ("data", "seed") if section.start == "seed" else ("data",)

    def settings(num_parts: int, **others: Any) -> dict[str, Any]:
        shape = work.recipe.seed.model_dump(exclude={"training"}) if section.start == "scratch" else None
        training = ensemble_training(work.recipe, num_parts).model_dump()
        return {"training": training, "start": section.start, "shape": shape, **others} | common

    bagging, boosting, stacking = section.bagging, section.boosting, section.stacking
    stages = []
    for number in range(1, bagging.num_members + 1):
        bagged = settings(bagging.num_members, max_samples=bagging.max_samples, number=number)
        apart = settings(bagging.num_members, number=number)
        stages += [
            Stage(f"bagging-{number}", partial(ensembles.train_bagged, work, number), bagged, needs, shared=True),
            Stage(f"deep-{number}", partial(ensembles.train_apart, work, number), apart, needs, shared=True),
        ]
    stages.append(Stage("out-of-bag", partial(ensembles.score_out_of_bag, work), {}, ("data", *work.bagging_stages)))
    rounds = settings(boosting.num_rounds, max_tokens=stacking.max_tokens, **boosting.model_dump())
    methods: dict[str, BoostingMethod] = {"boosting": "stagewise", "reweighting": "reweighting"}
    for name, method in methods.items():
        train = partial(ensembles.train_boosting, work, method)
        stages.append(Stage(name, train, rounds, needs, shared=True))
    snapshots = settings(1, num_snapshots=section.num_snapshots)
    stages.append(Stage("snapshots", partial(ensembles.train_snapshots, work), snapshots, needs, shared=True))
    fitted = stacking.model_dump() | common | {"checkpoints": work.recipe.experts.checkpoints}
    fitted["stackers"] = list(ensembles.STACKERS)  # a version that knows more of them fits them all again
    stages.append(Stage("stackers", partial(ensembles.fit_stackers, work), fitted, ("data", *work.expert_stages)))
    return stages


def _row(work: Work, combination: Combination, spent: Spending) -> Stage:
    """The stage that measures a combination: a row is measured again when what it is made of changes."""
    section = work.recipe.arena

    def measure(output: Path) -> None:
        work.measure_row(combination.name, combination.kind, combination.build(), spent, output)

    settings = section.model_dump(include={"max_tokens", "batch_size", "budget"})
    settings |= {"spent": [spent.tokens, spent.flops], "max_validation": work.recipe.ensembles.stacking.max_tokens}
    settings |= {"checkpoints": work.recipe.experts.checkpoints, "name": combination.name}
    place = f"rows/{combination.slug}"
    return Stage(f"row: {combination.name}", measure, settings, ("data", *combination.needs), place=place)
