"""What readers of spans and their mixtures minimize, and the batches that they and their routers learn from."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from moesaic.data import ExampleBatch, ExampleSampler
from moesaic.errors import DataError
from moesaic.members import span_log_probabilities
from moesaic.tasks import SpanWindows
from moesaic.training.classification import logits_of
from moesaic.training.objectives import Losses


def span_extraction(network: Any, batch: ExampleBatch) -> Losses:
    """The mean negative log-likelihood, in nats, of where the answer begins and of where it ends.

    In windows that do not hold the answer, that is the position which stands for no answer.

    Args:
        network: A :class:`moesaic.members.SpanReader`, or a mixture of some.
        batch: Of :func:`sample_spans`.

    Reference: Devlin et al. (2019), section 4.2, https://arxiv.org/abs/1810.04805
    """
    log_probabilities = span_log_probabilities(logits_of(network(*batch.inputs)).float())
    nats = -log_probabilities.gather(2, batch.labels.unsqueeze(-1)).mean()
    return Losses(nats, {"nats": nats})


def sample_spans(
    windows: SpanWindows, *, batch_size: int, seed: int, rows: Int[Tensor, " row"] | None = None
) -> ExampleSampler:
    """Batches of windows with the places of their answers, every window once in an epoch.

    Args:
        windows: What is learned from.
        batch_size: Windows in a batch.
        seed: Makes the order.
        rows: Which windows to take; all if not given.

    Raises:
        DataError: If there are fewer windows than a batch has.
    """
    taken = torch.arange(len(windows)) if rows is None else rows
    batch = ExampleBatch(windows.inputs, windows.spans).take(taken)
    return ExampleSampler(batch, batch_size, seed, windows.attention_mask.sum(dim=1)[taken])


def sample_span_domains(
    windows: SpanWindows, domain_index: Int[Tensor, " question"], *, batch_size: int, seed: int
) -> ExampleSampler:
    """Batches that a router learns from which domain a question is of (:class:`moesaic.training.Classification`).

    Args:
        windows: Windows of questions.
        domain_index: The domain of each question, in the order of the members.
        batch_size: Questions in a batch.
        seed: Makes the order.

    Raises:
        DataError: If the questions are not as many as the domains, or fewer than a batch has.
    """
    first = windows.first_windows.unique()
    if len(first) != len(domain_index):
        raise DataError(f"There are {len(first)} questions and {len(domain_index)} domains; give one domain each.")
    batch = ExampleBatch(windows.inputs, windows.question_index).take(first)
    return ExampleSampler(ExampleBatch(batch.inputs, domain_index), batch_size, seed)
