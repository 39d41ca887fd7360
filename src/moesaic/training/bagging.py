"""Bagging: each member learns from its own resample of the examples, by itself, and so in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import torch
from jaxtyping import Float
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor, nn

from moesaic.data import Examples, Rows, bootstrap, out_of_bag
from moesaic.members import Execution
from moesaic.training.classification import Learner, NetworkLearner, accuracy, predict_logits


@dataclass(frozen=True)
class Bag:
    """What bagging made.

    Attributes:
        networks: The members.
        drawn: The rows that each was trained on, as often as they were drawn.
    """

    networks: tuple[nn.Module, ...]
    drawn: tuple[Rows, ...]


def bag(
    learners: Learner | Sequence[Learner],
    examples: Examples,
    *,
    seeds: Sequence[int],
    max_samples: float = 1.0,
    replace: bool = True,
    num_processes: int = 1,
    execution: Execution | Literal["auto"] = "auto",
) -> Bag:
    """Fit one member a seed, each on its own resample of the examples.

    Without resampling (``replace=False``, ``max_samples=1``) what is left is a deep ensemble: members that differ in
    their seeds. Then, with one seed, the member is the one that the learner makes by itself.

    Args:
        learners: What is fitted; several take turns, and their members may be of any kind.
        examples: All examples.
        seeds: One a member; it makes the resample, the initial weights and the order.
        max_samples: Rows drawn, as a share of all.
        replace: Draw with replacement.
        num_processes: Members fitted at once, each in a process of its own; they share out the threads.
        execution: How one process trains members of one shape: ``stacked`` as one model, ``loop`` one after the other,
            ``auto`` as it is faster. They are the same up to rounding and to where dropout falls.

    Raises:
        ValueError: If there is no seed, or no learner, or members are to be stacked that cannot be.
        DataError: If a resample is smaller than a batch.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from moesaic.training import EstimatorLearner
        >>> examples = Examples(torch.tensor([[-2.0], [-1.0], [1.0], [2.0]] * 5), torch.tensor([0, 0, 1, 1] * 5))
        >>> learner = EstimatorLearner(lambda seed: LogisticRegression(), num_classes=2)
        >>> bagged = bag(learner, examples, seeds=[0, 1, 2])
        >>> out_of_bag_accuracy(bagged, examples)
        1.0

    References: Breiman (1996), Bagging predictors; Lakshminarayanan et al. (2017), https://arxiv.org/abs/1612.01474
    """
    kinds = list(learners) if isinstance(learners, Sequence) else [learners]
    if not seeds or not kinds:
        raise ValueError(f"Bagging needs a learner and a seed a member, got {len(kinds)} learners, {len(seeds)} seeds.")
    drawn = [bootstrap(len(examples), seed=seed, max_samples=max_samples, replace=replace) for seed in seeds]
    samples = [examples.take(rows) for rows in drawn]
    first = kinds[0]
    if len(kinds) == 1 and isinstance(first, NetworkLearner) and num_processes == 1:
        return Bag(tuple(first.fit_members(samples, seeds=seeds, execution=execution)), tuple(drawn))
    if execution == "stacked":
        raise ValueError(
            "Members are stacked where one NetworkLearner trains them in one process, got "
            f"{len(kinds)} learners ({type(first).__name__} first) and {num_processes} processes. Leave execution out."
        )
    fits = zip(cycle(kinds), samples, seeds, strict=False)
    if num_processes == 1:
        networks = [learner(sample, seed=seed) for learner, sample, seed in fits]
    else:
        num_threads = max(1, (os.cpu_count() or 1) // num_processes)
        jobs = (delayed(_fit_in_process)(*fit, num_threads) for fit in fits)
        networks = Parallel(n_jobs=num_processes)(jobs)
    return Bag(tuple(networks), tuple(drawn))


def _fit_in_process(learner: Learner, examples: Examples, seed: int, num_threads: int) -> nn.Module:
    torch.set_num_threads(num_threads)
    return learner(examples, seed=seed)


def out_of_bag_probabilities(bagged: Bag, examples: Examples) -> Float[Tensor, "row class"]:
    """What the members that were not trained on a row say of it, averaged; not a number where all of them were.

    Args:
        bagged: The bag.
        examples: The examples that it was made from, all of them.

    Reference: Breiman (1996), Out-of-bag estimation.
    """
    total: Tensor | None = None
    counts = torch.zeros(len(examples), 1)
    for network, drawn in zip(bagged.networks, bagged.drawn, strict=True):
        rows = out_of_bag(len(examples), drawn)
        if not len(rows):
            continue
        probabilities = predict_logits(network, examples.take(rows).inputs).softmax(dim=-1)
        total = torch.zeros(len(examples), probabilities.shape[1]) if total is None else total
        total[torch.from_numpy(rows)] += probabilities
        counts[torch.from_numpy(rows)] += 1
    if total is None:
        raise ValueError("Every member was trained on every row, so none is out of bag. Draw with replacement.")
    return total / counts


def out_of_bag_accuracy(bagged: Bag, examples: Examples) -> float:
    """Accuracy on the training examples, each answered by the members that were not trained on it alone.

    An estimate of the accuracy on unseen examples that costs none. Rows that every member has drawn are left out.

    Raises:
        ValueError: If no member has left out any row.
    """
    probabilities = out_of_bag_probabilities(bagged, examples)
    answered = ~probabilities[:, 0].isnan()
    return accuracy(probabilities[answered], examples.labels[answered])
