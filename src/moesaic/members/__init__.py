"""One model behind one small interface."""

from moesaic.members.causal_lm import CausalLM, load_member, load_network, quiet_transformers
from moesaic.members.checkpoints import Checkpoint, TensorHeader, read_checkpoint
from moesaic.members.module import EstimatorMember, EstimatorModule, ModuleMember

__all__ = [
    "CausalLM",
    "Checkpoint",
    "EstimatorMember",
    "EstimatorModule",
    "ModuleMember",
    "TensorHeader",
    "load_member",
    "load_network",
    "quiet_transformers",
    "read_checkpoint",
]
