"""Boosting classifiers: each member is fitted to what the sum of those before it gets wrong."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.data import Examples
from moesaic.errors import TrainingError
from moesaic.training.classification import Classification, Learner, NetworkLearner, predict_logits


class Votes(nn.Module):
    """A classifier's answers as a vote: 1 for the class that it holds likeliest, 0 for all others.

    SAMME adds up votes, not scores. Its members are given so that ``Additive(alphas)`` is the boosted classifier.

    Args:
        network: The classifier, kept within.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: object) -> Float[Tensor, "batch class"]:
        """Vote."""
        output = self.network(*inputs)
        logits = output if isinstance(output, Tensor) else output.logits
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()


@dataclass(frozen=True)
class BoostedClassifiers:
    """What boosting made: the boosted classifier is ``ModuleMixture(members, Additive(weights))``.

    Attributes:
        networks: The members that were kept, in order.
        weights: The step size of each: SAMME's alphas, or shrinkages.
        losses: What was watched, one a round that was tried: the weighted training error (SAMME), or the loss on
            validation examples in nats.
    """

    networks: tuple[nn.Module, ...]
    weights: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def num_rounds_tried(self) -> int:
        """Rounds that were trained; one more than were kept where the last did not help."""
        return len(self.losses)


def adaboost(
    learner: Learner, examples: Examples, *, num_classes: int, num_rounds: int, seed: int = 0, shrinkage: float = 1.0
) -> BoostedClassifiers:
    """Fit members one after the other, examples that the last ones got wrong counting more: SAMME.

    A member's weight is ``alpha = shrinkage · (log((1 - error) / error) + log(num_classes - 1))``, which is above zero
    where it is better than guessing. The members are votes (:class:`Votes`), so that their weighted sum is SAMME's.
    One round is the plain member.

    Args:
        learner: What is fitted in each round; it must count examples by their weights.
        examples: The training examples.
        num_classes: Number of classes.
        num_rounds: Rounds at most.
        seed: Seed of the first round; each later one has the next.
        shrinkage: Factor on every alpha; smaller steps need more rounds.

    Returns:
        The members and their alphas. Boosting stops, with a warning, at a round no better than guessing, and without
        one at a round that makes no error: no example is left to count more.

    Raises:
        ValueError: If there are no rounds, fewer than two classes, or the shrinkage is not above 0.
        TrainingError: If the first round already is no better than guessing.

    Reference: Zhu et al. (2009), Multi-class AdaBoost, algorithm 2.
    """
    _check(num_rounds, shrinkage)
    if num_classes < 2:
        raise ValueError(f"num_classes must be 2 or more, got {num_classes}.")
    counts = torch.ones(len(examples)) if examples.weights is None else examples.weights.float()
    counts = counts / counts.mean()
    networks: list[nn.Module] = []
    alphas: list[float] = []
    errors: list[float] = []
    for number in range(num_rounds):
        network = learner(replace(examples, weights=counts), seed=seed + number)
        wrong = predict_logits(network, examples.inputs).argmax(dim=-1) != examples.labels
        error = float((counts * wrong).sum() / counts.sum())
        errors.append(error)
        if error >= 1 - 1 / num_classes:
            _stop(number, num_rounds, f"weighted error {error:.3f}, that of guessing {1 - 1 / num_classes:.3f}")
            break
        alpha = shrinkage * float(_samme_alpha(torch.tensor(error), num_classes))
        networks.append(Votes(network))
        alphas.append(alpha)
        if not error:
            break
        counts = _reweight(counts, wrong, alpha)
    return BoostedClassifiers(tuple(networks), tuple(alphas), tuple(errors))


def _samme_alpha(error: Float[Tensor, ""], num_classes: int) -> Float[Tensor, ""]:
    # A member without error would have an infinite alpha; this is that of one error in a million.
    error = error.clamp_min(1e-6)
    return ((1 - error) / error).log() + torch.tensor(float(num_classes - 1)).log()


def _reweight(counts: Float[Tensor, " row"], wrong: Bool[Tensor, " row"], alpha: float) -> Float[Tensor, " row"]:
    """Raise the weights of the rows that were answered wrongly, then scale all to a mean of 1."""
    # Logarithms, because late alphas of many rounds add up to more than exp can hold.
    raised = counts.log() + alpha * wrong
    weights = (raised - raised.max()).exp()
    return (weights / weights.mean()).clamp_min(1e-12)


def gradient_boost(
    learner: NetworkLearner,
    examples: Examples,
    validation: Examples,
    *,
    num_rounds: int,
    seed: int = 0,
    shrinkage: float = 0.5,
) -> BoostedClassifiers:
    """Fit members one after the other, each inside the sum: cross-entropy of ``F_{m-1} + shrinkage · f_m``.

    The first member is fitted plainly and counts 1, so one round is the plain member.

    Args:
        learner: What is fitted in each round; its objective must be a :class:`Classification`.
        examples: The training examples.
        validation: Held-out examples; boosting stops at the first round that does not lower the loss on them.
        num_rounds: Rounds at most.
        seed: Seed of the first round; each later one has the next.
        shrinkage: Weight of every member after the first.

    Raises:
        ValueError: If there are no rounds, the shrinkage is not above 0, or the objective is another.

    Reference: Friedman (2001), Greedy function approximation, section 4.6 (the multi-class loss) and section 5
    (shrinkage), with the loss minimized by the member's own training instead of a fit to its gradient.
    """
    _check(num_rounds, shrinkage)
    if not isinstance(learner.objective, Classification):
        raise ValueError("gradient_boost adds up class scores, so the learner's objective must be a Classification.")
    networks: list[nn.Module] = []
    losses: list[float] = []
    total: Tensor | None = None
    total_validation: Tensor | float = 0.0
    for number in range(num_rounds):
        step = shrinkage if number else 1.0
        objective = replace(learner.objective, shrinkage=step)
        network = replace(learner, objective=objective)(replace(examples, offsets=total), seed=seed + number)
        tried = total_validation + step * predict_logits(network, validation.inputs)
        losses.append(float(F.cross_entropy(tried, validation.labels)))
        if number and losses[-1] >= losses[-2]:
            _stop(number, num_rounds, f"validation loss {losses[-1]:.4f}, before it {losses[-2]:.4f}")
            break
        networks.append(network)
        total_validation = tried
        said = step * predict_logits(network, examples.inputs)
        total = said if total is None else total + said
    weights = [1.0, *[shrinkage] * (len(networks) - 1)]
    return BoostedClassifiers(tuple(networks), tuple(weights), tuple(losses))


def _check(num_rounds: int, shrinkage: float) -> None:
    if num_rounds < 1 or shrinkage <= 0:
        raise ValueError(
            f"Boosting needs num_rounds of 1 or more and a shrinkage above 0, got num_rounds={num_rounds} and "
            f"shrinkage={shrinkage}."
        )


def _stop(kept: int, num_rounds: int, reason: str) -> None:
    if not kept:
        raise TrainingError(f"Boosting has no first member: {reason}. Train it longer, or give it more to learn with.")
    warnings.warn(
        f"Boosting stopped: round {kept + 1} is no better than chance ({reason}). {kept} of {num_rounds} rounds are "
        "kept.",
        stacklevel=3,
    )
