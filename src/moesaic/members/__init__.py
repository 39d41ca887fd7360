"""One model behind one small interface."""

from moesaic.members.causal_lm import CausalLM, load_member, load_network, quiet_transformers
from moesaic.members.checkpoints import Checkpoint, TensorHeader, read_checkpoint

__all__ = [
    "CausalLM",
    "Checkpoint",
    "TensorHeader",
    "load_member",
    "load_network",
    "quiet_transformers",
    "read_checkpoint",
]
