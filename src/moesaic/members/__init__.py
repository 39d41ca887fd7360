"""One model behind one small interface."""

from moesaic.members.causal_lm import CausalLM, load_member, load_network, quiet_transformers
from moesaic.members.checkpoints import Checkpoint, TensorHeader, read_checkpoint
from moesaic.members.damage import check_numbers
from moesaic.members.writing import Sampling, score_candidates, write_candidates

__all__ = [
    "CausalLM",
    "Checkpoint",
    "Sampling",
    "TensorHeader",
    "check_numbers",
    "load_member",
    "load_network",
    "quiet_transformers",
    "read_checkpoint",
    "score_candidates",
    "write_candidates",
]
