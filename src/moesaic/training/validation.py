"""The loss on held-out text, by which training decides when to stop and what to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from moesaic.data import EvaluationBlocks
from moesaic.tasks import next_token_nats


@torch.no_grad()
def validation_nats(network: Any, blocks: Mapping[str, EvaluationBlocks], *, batch_size: int = 16) -> float:
    """Mean over domains of a model's loss on held-out text, in nats per token.

    Args:
        network: A Transformers causal language model, or a mixture.
        blocks: The held-out text of every domain.
        batch_size: Windows read at once.

    Raises:
        ValueError: If a domain has no text.
    """
    was_training = network.training
    network.eval()
    means = []
    for domain, documents in blocks.items():
        if not documents.num_tokens:
            raise ValueError(f"Domain {domain!r} has no text to validate on. Raise data.validation_fraction.")
        nats = 0.0
        pairs = zip(documents.input_ids.split(batch_size), documents.labels.split(batch_size), strict=True)
        for input_ids, labels in pairs:
            logits = network(input_ids=input_ids.to(network.device), use_cache=False).logits
            nats += float(next_token_nats(logits, labels.to(logits.device)).double().sum())
        means.append(nats / documents.num_tokens)
    network.train(was_training)
    return sum(means) / len(means)
