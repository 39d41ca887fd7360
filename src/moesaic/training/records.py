"""What is known after each optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        step: Steps done, counted from 1.
        loss: What was minimized, mean over the batch.
        parts: The terms that the loss is made of, before their coefficients; ``nats`` is the language-model loss.
        learning_rate: The learning rate of this step.
        num_tokens: Tokens read so far in this stage.
    """

    step: int
    loss: float
    parts: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    num_tokens: int = 0


OnStep = Callable[[StepRecord], None]
"""Told of every optimizer step; progress bars, TensorBoard and tests are such callables."""
