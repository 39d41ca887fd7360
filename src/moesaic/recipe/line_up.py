"""The line-up of the arena: every combination a recipe can ask for, what it needs, and how it is made."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from moesaic.arena import DENSE
from moesaic.arena.rows import Kind
from moesaic.combiners import Average, Combiner, Posterior, SparsePosterior
from moesaic.errors import RecipeError
from moesaic.members import CausalLM, load_network
from moesaic.mixture import Mixture
from moesaic.moe import find_gates
from moesaic.recipe.ensembles import STACKERS, load_stacker
from moesaic.recipe.work import ROUTERS, Work
from moesaic.training import average_parameters, greedy_soup, validation_nats


@dataclass(frozen=True)
class Combination:
    """One row of the arena, before it is measured.

    Attributes:
        name: What the table calls it.
        kind: An expert alone, a reference, an ensemble of whole models, or a sparse mixture.
        needs: The stages whose files it is made of.
        build: Makes the model.
        num_models: Whole models that read every token.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    build: Callable[[], nn.Module]
    num_models: int = 1

    @property
    def slug(self) -> str:
        """The name of the row's stage and folder.

        Example:
            >>> Combination("mixture, ridge router", "mixture", (), nn.Identity).slug
            'mixture-ridge-router'
        """
        return re.sub(r"[^a-z0-9_]+", "-", self.name.lower()).strip("-")


TRAINED = ("bagging", "deep_ensemble", "boosting", "reweighting", "snapshots", "snapshot_soup")
"""Words of the ensembles that have stages of their own."""

UNTRAINED = ("parameter_average", "average", "logit_average", "posterior")
"""Words of the ensembles of experts that cost nothing: part of every road."""

ROAD = ("seed", "experts", *UNTRAINED, "untrained", "router", "joint", "dense")

CHOICES = {"joint_top_p": "mixture, top-p 0.9", "joint_sigmoid": "mixture, sigmoid with bias"}
"""Words of mixtures whose routers choose in another way, each with a stage of its own, and their rows' names."""

WORDS = (*ROAD, *CHOICES, "greedy_soup", "log_average", "sparse_posterior", *STACKERS, *TRAINED)
"""Everything that a recipe can ask for, one word a method."""


def choose_words(work: Work) -> list[str]:
    """The words that a recipe asks for, in the order in which they are measured.

    Raises:
        RecipeError: If it asks for what does not exist, or for what cannot be had without a seed.
    """
    asked = work.recipe.arena.combinations
    possible = [word for word in WORDS if _missing(work, word) is None]
    if asked == "road":
        return [word for word in ROAD if word in possible]
    if asked == "standard":
        return possible
    place = f"{work.loaded.path.name}, arena.combinations"
    for word in asked:
        if word not in WORDS:
            close = difflib.get_close_matches(word, WORDS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(WORDS)}."
            raise RecipeError(f"{place}: no combination is called {word!r}. {hint}")
        missing = _missing(work, word)
        if missing is not None:
            raise RecipeError(f"{place}: {word!r} {missing}")
    return [word for word in WORDS if word in asked]


def _missing(work: Work, word: str) -> str | None:
    """Why a recipe cannot have a combination; ``None`` if it can."""
    from_seed = word in ("seed", "dense", *TRAINED)
    if from_seed and not work.has_seed:
        return "needs a seed, and these experts are checkpoints. Give seed.checkpoint, or leave it out."
    stage = "joint" if word in CHOICES else word
    if stage in ("router", "joint") and stage not in work.mixture_stages:
        return f"needs a stage that is left out. Set {stage}.num_steps above 0, or leave it out."
    needs_validation = word in ("greedy_soup", "boosting", "reweighting", *STACKERS)
    if needs_validation and not work.recipe.data.validation_fraction:
        return "is fitted on validation text, and there is none. Set data.validation_fraction above 0."
    return None


def line_up(work: Work) -> list[Combination]:
    """Every row that a recipe asks for."""
    return [combination for word in choose_words(work) for combination in _combinations(work, word)]


def _combinations(work: Work, word: str) -> Iterable[Combination]:
    """The rows of one word; some have several."""
    experts = work.expert_stages
    singles: dict[str, Combination] = {
        "seed": Combination("seed", "reference", ("seed",), partial(work.load_stage, "seed")),
        "dense": Combination(DENSE, "reference", ("dense",), partial(work.load_stage, "dense")),
        "parameter_average": Combination(
            "parameter average", "ensemble", experts, lambda: average_parameters(_networks(work))
        ),
        "greedy_soup": Combination("greedy soup", "ensemble", experts, partial(_greedy_soup, work)),
        "average": _of_experts(work, "probability average", Average),
        "log_average": _of_experts(work, "log-probability average", lambda: Average("log_probability")),
        "logit_average": _of_experts(work, "logit average", lambda: Average("logit")),
        "posterior": _of_experts(work, "posterior", Posterior),
        "sparse_posterior": _of_experts(work, "posterior, one kept after 32 tokens", SparsePosterior),
        "router": Combination("mixture, router trained", "mixture", ("router",), partial(work.load_stage, "router")),
        "joint": Combination("mixture, trained jointly", "mixture", ("joint",), partial(work.load_stage, "joint")),
        "bagging": _of_stages(work, "bagging", work.bagging_stages, ("out-of-bag",)),
        "deep_ensemble": _of_stages(work, "deep ensemble", work.deep_stages),
        "boosting": _boosted(work, "boosting, stagewise", "boosting"),
        "reweighting": _boosted(work, "boosting, reweighted", "reweighting"),
        "snapshots": Combination(
            "snapshot ensemble",
            "ensemble",
            ("snapshots",),
            lambda: _average(_snapshots(work)),
            work.recipe.ensembles.num_snapshots,
        ),
        "snapshot_soup": Combination(
            "snapshot soup", "ensemble", ("snapshots",), lambda: average_parameters(_snapshots(work))
        ),
    }
    if word in singles:
        yield singles[word]
    elif word in CHOICES:
        stage = word.replace("_", "-")
        yield Combination(CHOICES[word], "mixture", (stage,), partial(work.load_stage, stage))
    elif word in STACKERS:
        yield _of_experts(work, STACKERS[word], partial(load_stacker, work, word), ("stackers",))
    elif word == "experts":
        for index, name in enumerate(work.recipe.domain_names):
            needs = (experts[index],) if experts else ()
            yield Combination(f"expert {name}", "expert", needs, partial(_expert, work, index))
    elif word == "untrained":
        for method in ROUTERS:
            make = partial(_untrained, work, method)
            yield Combination(f"mixture, {method} router", "mixture", ("assemble",), make)


def _of_experts(work: Work, name: str, make: Callable[[], Combiner], needs: tuple[str, ...] = ()) -> Combination:
    """The experts under a combiner."""
    return Combination(
        name,
        "ensemble",
        (*work.expert_stages, *needs),
        lambda: Mixture(work.experts, make(), name=name).eval(),
        len(work.recipe.domain_names),
    )


def _of_stages(work: Work, name: str, stages: tuple[str, ...], needs: tuple[str, ...] = ()) -> Combination:
    """The average of models that stages made."""
    return Combination(
        name,
        "ensemble",
        (*stages, *needs),
        lambda: _average([work.load_stage(stage) for stage in stages]),
        len(stages),
    )


def _boosted(work: Work, name: str, stage: str) -> Combination:
    """A sum that a stage of boosting made."""
    folder = work.folder.stage_folder(stage) / "model"
    rounds = work.recipe.ensembles.boosting.num_rounds
    return Combination(name, "ensemble", (stage,), lambda: Mixture.from_pretrained(folder).eval(), rounds)


def _average(networks: list[PreTrainedModel]) -> Mixture:
    members = [CausalLM(f"member-{number}", network) for number, network in enumerate(networks, start=1)]
    return Mixture(members, Average()).eval()


def _expert(work: Work, index: int) -> PreTrainedModel:
    return work.experts[index].network


def _networks(work: Work) -> list[PreTrainedModel]:
    return [expert.network for expert in work.experts]


def _snapshots(work: Work) -> list[PreTrainedModel]:
    folder = work.folder.stage_folder("snapshots")
    return [load_network(folder / f"model-{number}") for number in range(1, work.recipe.ensembles.num_snapshots + 1)]


def _greedy_soup(work: Work) -> PreTrainedModel:
    blocks = work.validation_blocks()
    soup, chosen = greedy_soup(_networks(work), lambda network: validation_nats(network, blocks))
    work.say(f"  greedy soup of {', '.join(work.recipe.domain_names[index] for index in chosen)}")
    return soup


def _untrained(work: Work, method: Any) -> PreTrainedModel:
    network = work.load_stage("assemble")
    weights = work.routers(work.folder.stage_folder("assemble"))[method]
    with torch.no_grad():
        for layer, gate in enumerate(find_gates(network)):
            gate.weight.copy_(weights[layer])
    return network
