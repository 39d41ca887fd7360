"""One file a task: its losses and what it is measured by."""

from moesaic.tasks.language_modeling import next_token_loss, next_token_nats

__all__ = ["next_token_loss", "next_token_nats"]
