"""What training costs, in tokens and floating-point operations: each stage, and all that a row is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moesaic.planning import ModelSize
from moesaic.recipe.build import dense_steps, ensemble_training, other_choices, stage_tokens
from moesaic.recipe.folder import Stage
from moesaic.recipe.schema import Recipe

_FORWARD = 2
_TRAINING = 6
_ADAPTER_TRAINING = 4  # frozen weights have no gradients of their own


@dataclass(frozen=True)
class Spending:
    """What training used.

    Attributes:
        tokens: Tokens that were trained on.
        flops: Floating-point operations: 6 for each active parameter and token, 4 where adapters are trained on
            frozen weights, 2 where a model is only read.

    Reference: Kaplan et al. (2020), section 2.1, https://arxiv.org/abs/2001.08361
    """

    tokens: int = 0
    flops: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(self.tokens + other.tokens, self.flops + other.flops)


def stage_spending(recipe: Recipe, dense: ModelSize, sparse: ModelSize) -> dict[str, Spending]:
    """What each stage that trains spends, by the stage's name.

    Args:
        recipe: The recipe.
        dense: Size of the seed and of every expert.
        sparse: Size of the mixture.
    """

    def train(section: Any, size: ModelSize, num_steps: int | None = None, cost: int = _TRAINING) -> Spending:
        tokens = stage_tokens(section, recipe, num_steps)
        return Spending(tokens, cost * size.active * tokens)

    experts, ensembles = recipe.experts, recipe.ensembles
    spent = {"seed": train(recipe.seed.training, dense)}
    if not experts.checkpoints:
        cost = _ADAPTER_TRAINING if experts.train == "lora" else _TRAINING
        spent |= {f"expert-{name}": train(experts.training, dense, cost=cost) for name in recipe.domain_names}
    spent |= {name: train(getattr(recipe, name), sparse) for name in ("router", "joint")}
    # How many experts a choice will use is not known before; it is charged for as many as a fixed top k would be.
    spent |= dict.fromkeys(other_choices(recipe), spent["joint"])
    spent["dense"] = train(experts.training, dense, dense_steps(recipe))
    member = train(ensemble_training(recipe, ensembles.bagging.num_members), dense)
    for number in range(1, ensembles.bagging.num_members + 1):
        spent |= {f"bagging-{number}": member, f"deep-{number}": member}
    spent["snapshots"] = train(ensemble_training(recipe, 1), dense)
    rounds = ensembles.boosting.num_rounds
    one_round = train(ensemble_training(recipe, rounds), dense)
    # Every round reads its text with all members before it, too.
    read = _FORWARD * dense.active * one_round.tokens * rounds * (rounds - 1) // 2
    boosting = Spending(one_round.tokens * rounds, one_round.flops * rounds + read)
    return spent | {"boosting": boosting, "reweighting": boosting}


def total_spending(names: Iterable[str], stages: Sequence[Stage], spent: Mapping[str, Spending]) -> Spending:
    """What some stages and all that they need spend together, each counted once."""
    return sum((spent.get(name, Spending()) for name in ancestors(names, stages)), start=Spending())


def ancestors(names: Iterable[str], stages: Sequence[Stage]) -> list[str]:
    """Some stages and all that they need, directly or not, in the order of the road."""
    needs = {stage.name: stage.needs for stage in stages}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs[name]
    return [stage.name for stage in stages if stage.name in found]
