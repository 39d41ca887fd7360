"""What a mixture of several tasks minimizes, and how the tasks' losses are balanced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moesaic.data import ExampleBatch
from moesaic.multi_task_mixture import MultiTaskMixture, TaskOutput, check_heads
from moesaic.training.mixture_losses import NO_BALANCE, RouterBalance, class_nats, squared_errors
from moesaic.training.objectives import Losses

TaskWeighting = Literal["equal", "uncertainty"]


@dataclass(frozen=True)
class MultiTaskObjective:
    """The tasks' losses, balanced; for :func:`moesaic.training.fit`.

    A batch's labels have one column a task, all of one type: classes as whole numbers. Not a number says that a row
    has no label for a task; it then counts for the others alone. Cross-entropy for classes, squared errors for numbers.

    - ``equal``: the sum of the losses. Right where they are of one kind and size, such as cross-entropies.
    - ``uncertainty``: each loss is divided by a variance that is learned with the network,
      ``loss_t / v_t + log(v_t) / 2`` (for numbers, ``loss_t / (2 v_t)``). Right where losses are in different units: a
      task with much noise then counts less, and its scale does not matter.

    Attributes:
        tasks: Which task each column of the labels is of.
        weighting: ``equal`` or ``uncertainty``.
        balance: Losses of each task's router, added.

    Raises:
        ValueError: If there is no task, one is named twice, or there is no such weighting.

    Reference: Kendall, Gal and Cipolla (2018), Multi-task learning using uncertainty to weigh losses, section 3.2,
    equations 7 and 10, https://arxiv.org/abs/1705.07115
    """

    tasks: Sequence[str]
    weighting: TaskWeighting = "equal"
    balance: RouterBalance = NO_BALANCE

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must name each column of the labels once, got {list(self.tasks)}.")
        if self.weighting not in get_args(TaskWeighting):
            raise ValueError(f"weighting must be one of {', '.join(get_args(TaskWeighting))}, got {self.weighting!r}.")

    def __call__(self, network: Any, batch: ExampleBatch) -> Losses:
        """Compute the losses of a multi-task mixture on a batch.

        Raises:
            ValueError: If a task has no head, the labels have not one column a task, or routers are to be trained that
                cannot learn.
        """
        check_heads(self.tasks, network)
        _check_routers_learn(network)
        labels = batch.labels
        if labels.dim() != 2 or labels.shape[1] != len(self.tasks):
            raise ValueError(
                f"The labels must have one column for each of the tasks {', '.join(self.tasks)}, got the shape "
                f"{tuple(labels.shape)}."
            )
        outputs = network(*batch.inputs)
        total, parts = torch.zeros((), device=labels.device), {}
        for column, task in enumerate(self.tasks):
            loss = _task_loss(outputs[task], labels[:, column], batch.weights, regression=task in network.regression)
            balance, balance_parts = self.balance(outputs[task].routing, network.top_k)
            total = total + self._weigh(network, task, loss) + balance
            parts[f"{task}/loss"] = loss
            parts |= {f"{task}/{name}": part for name, part in balance_parts.items()}
        return Losses(total, parts)

    def _weigh(self, mixture: MultiTaskMixture, task: str, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        if self.weighting == "equal":
            return loss
        log_variance = mixture.log_variances[mixture.tasks.index(task)]
        factor = 0.5 if task in mixture.regression else 1.0
        return factor * (-log_variance).exp() * loss + 0.5 * log_variance


def _check_routers_learn(mixture: MultiTaskMixture) -> None:
    trained = any(parameter.requires_grad for parameter in mixture.routers.parameters())
    if mixture.top_k == 1 and mixture.normalize and len(mixture.members) > 1 and trained:
        raise ValueError(
            "With top_k=1 and normalize=True every chosen expert has the weight 1, so the routers cannot learn. Use "
            "normalize=False, or train with top_k=None or 2 and set mixture.top_k to 1 afterwards."
        )


def _task_loss(
    output: TaskOutput,
    labels: Float[Tensor, " batch"],
    weights: Float[Tensor, " batch"] | None,
    *,
    regression: bool,
) -> Float[Tensor, ""]:
    """Mean over the rows that have a label; zero if there is none in the batch."""
    known: Bool[Tensor, " batch"] = ~labels.isnan()
    labels = labels.nan_to_num()
    logits = output.logits.float()
    lost = squared_errors(logits, labels) if regression else class_nats(logits, labels.long())
    counts = known.float() if weights is None else known * weights
    return (lost * counts).sum() / known.sum().clamp_min(1)
