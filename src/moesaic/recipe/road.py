"""The road: which stages a recipe has, what each depends on, and in which order they are done."""

from __future__ import annotations

from functools import partial
from typing import Any

from moesaic.recipe.build import build_source, dense_steps
from moesaic.recipe.folder import Stage
from moesaic.recipe.work import Work


def plan_road(work: Work) -> list[Stage]:
    """All stages of a recipe.

    A stage's settings are its own part of the recipe and what it reads outside of the run; a change there does it
    again, and what needs it.
    """
    recipe = work.recipe
    common = {"sequence_length": recipe.data.sequence_length, "random_seed": recipe.random_seed}
    stages = [Stage("data", work.prepare_data, _data_settings(work))]
    if work.has_seed:
        stages.append(Stage("seed", work.train_seed, recipe.seed.model_dump() | common, ("data",), shared=True))
    expert = recipe.experts.model_dump(include={"train", "training"}) | common
    for index, name in enumerate(work.expert_stages):
        train = partial(work.train_expert, index)
        stages.append(Stage(name, train, expert | {"index": index}, ("data", "seed"), shared=True))
    assembly: dict[str, Any] = recipe.assemble.model_dump() | common | {"checkpoints": recipe.experts.checkpoints}
    seed = ("seed",) if work.has_seed else ()
    stages.append(Stage("assemble", work.assemble, assembly, ("data", *seed, *work.expert_stages)))
    before = "assemble"
    for name in work.mixture_stages:
        work_on = {"router": work.train_router, "joint": work.train_jointly}[name]
        settings = getattr(recipe, name).model_dump() | common
        stages.append(Stage(name, work_on, settings, ("data", before), shared=True))
        before = name
    if work.has_seed:
        dense = recipe.experts.training.model_dump() | common | {"num_steps": dense_steps(recipe)}
        stages.append(Stage("dense", work.train_dense, dense, ("data", "seed"), shared=True))
    measured = tuple(stage.name for stage in stages)
    stages.append(Stage("arena", work.measure, recipe.arena.model_dump(), measured))
    text = {"recipe": work.loaded.text}
    stages.append(Stage("export", work.export, text, ("arena", work.final_stage), place="model"))
    stages.append(Stage("report", work.report, text, ("arena", work.final_stage), place="report"))
    return stages


def _data_settings(work: Work) -> dict[str, Any]:
    section, folder = work.recipe.data, work.loaded.path.parent
    fingerprints = [build_source(domain, folder).fingerprint() for domain in section.domains]
    return section.model_dump() | {"fingerprints": fingerprints, "tokenizer": work.tokenizer_source}
