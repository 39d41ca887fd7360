"""Out-of-fold predictions: what members say of rows that they were not trained on, without setting any aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moesaic.data import Examples, Rows, check_unseen, folds
from moesaic.training.classification import Learner, predict_logits
from moesaic.training.stacking import HeldOut


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for all examples, each by a member that was fitted without that example's fold.

    Attributes:
        names: The members' names.
        member_logits: What each member says of each example.
        folds: The rows of each fold.
    """

    names: tuple[str, ...]
    member_logits: Float[Tensor, "member row class"]
    folds: tuple[Rows, ...]

    def held_out(self, examples: Examples) -> HeldOut:
        """The predictions and the right answers, as stackers are fitted on them.

        Raises:
            LeakageError: If an example stands in two folds: then some member that answers for it has seen it.
        """
        for number, rows in enumerate(self.folds):
            others = np.setdiff1d(np.arange(len(examples)), rows)
            seen = examples.take(others).fingerprints()
            names = {f"{name} of fold {number + 1}": seen for name in self.names}
            check_unseen(names, examples.take(rows).fingerprints())
        return HeldOut.of_examples(self.member_logits, examples.labels)


def out_of_fold_logits(
    learners: Mapping[str, Learner], examples: Examples, *, num_folds: int = 5, seed: int = 0
) -> OutOfFold:
    """Predict every example by members that were fitted on the other folds.

    Each label is shared out evenly over the folds. Examples that are the same are in the same fold, since a member that
    was trained on one of them has seen the other.

    Args:
        learners: One a member, by its name.
        examples: The training examples.
        num_folds: Number of folds; each member is fitted that many times.
        seed: Makes the folds and the fits.

    Raises:
        ValueError: If there are fewer rows of some label than folds.

    Reference: Wolpert (1992), Stacked generalization, section 2; Breiman (1996), Stacked regressions, section 2.
    """
    parts = _folds_of_distinct(examples, num_folds, seed)
    columns = []
    for learner in learners.values():
        logits: Tensor | None = None
        for number, rows in enumerate(parts):
            others = np.setdiff1d(np.arange(len(examples)), rows)
            network = learner(examples.take(others), seed=seed + number)
            said = predict_logits(network, examples.take(rows).inputs)
            logits = said.new_zeros(len(examples), said.shape[-1]) if logits is None else logits
            logits[torch.from_numpy(rows)] = said
        assert logits is not None
        columns.append(logits)
    return OutOfFold(tuple(learners), torch.stack(columns), tuple(parts))


def _folds_of_distinct(examples: Examples, num_folds: int, seed: int) -> list[Rows]:
    """Folds over distinct inputs, with every copy of an input in the fold of the first."""
    copies: dict[bytes, list[int]] = {}
    for row, content in enumerate(examples.row_bytes()):
        copies.setdefault(content, []).append(row)
    groups = list(copies.values())
    labels = [examples.labels[group[0]].item() for group in groups]
    dealt = folds(len(groups), num_folds, seed=seed, labels=labels)
    return [np.sort(np.concatenate([groups[index] for index in part])).astype(np.int64) for part in dealt]
