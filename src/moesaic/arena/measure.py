"""Measure one model on test documents."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from moesaic.arena.scores import DocumentScores
from moesaic.data import EvaluationBlocks
from moesaic.errors import TrainingError
from moesaic.tasks import next_token_nats


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model.

    Attributes:
        scores: Its scores on every domain.
        tokens_per_second: Tokens that it read in a second while it was scored.
    """

    scores: dict[str, DocumentScores]
    tokens_per_second: float


@torch.no_grad()
def measure(network: Any, blocks: Mapping[str, EvaluationBlocks], *, batch_size: int, name: str) -> Measurement:
    """Score every test token once.

    Args:
        network: A Transformers causal language model, or a mixture.
        blocks: The test documents of every domain.
        batch_size: Windows read at once.
        name: What errors call the model.

    Raises:
        TrainingError: If the model does not give a number for some document.
    """
    network.eval()
    seconds, num_tokens = 0.0, 0
    scores = {}
    for domain, documents in blocks.items():
        nats = torch.zeros(len(documents.document_bytes), dtype=torch.float64)
        tokens = torch.zeros_like(nats)
        for start in range(0, len(documents.input_ids), batch_size):
            rows = slice(start, start + batch_size)
            labels, index = documents.labels[rows], documents.document_index[rows]
            started = time.perf_counter()
            logits = network(input_ids=documents.input_ids[rows].to(network.device), use_cache=False).logits
            seconds += time.perf_counter() - started
            num_tokens += labels.numel()
            scored = next_token_nats(logits.cpu(), labels)
            nats.index_add_(0, index.flatten(), scored.double().flatten())
            tokens.index_add_(0, index.flatten(), (labels >= 0).double().flatten())
        if not torch.isfinite(nats).all():
            raise TrainingError(
                f"{name} gives no number for {int((~torch.isfinite(nats)).sum())} of {len(nats)} test documents of "
                f"{domain}; its weights or one of its members' are damaged or not a number."
            )
        scores[domain] = DocumentScores(
            nats.numpy(), tokens.numpy().astype(np.int64), documents.document_bytes.numpy().astype(np.int64)
        )
    return Measurement(scores, num_tokens / seconds)
