"""One model behind one small interface."""

from moesaic.members.causal_lm import CausalLM, load_member
from moesaic.members.checkpoints import Checkpoint, TensorHeader, read_checkpoint

__all__ = ["CausalLM", "Checkpoint", "TensorHeader", "load_member", "read_checkpoint"]
