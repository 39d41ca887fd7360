"""One file a task: its losses and what it is measured by."""

from moesaic.tasks.language_modeling import next_token_loss, next_token_nats
from moesaic.tasks.linear_cross_entropy import linear_cross_entropy
from moesaic.tasks.temperature import fit_temperature

__all__ = ["fit_temperature", "linear_cross_entropy", "next_token_loss", "next_token_nats"]
