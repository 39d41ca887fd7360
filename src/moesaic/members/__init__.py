"""One model behind one small interface."""

from moesaic.members.causal_lm import CausalLM, load_member, load_network, quiet_transformers
from moesaic.members.checkpoints import Checkpoint, TensorHeader, read_checkpoint
from moesaic.members.module import EstimatorMember, EstimatorModule, ModuleMember
from moesaic.members.text_classifiers import ARCHITECTURES, TextClassifier, make_text_classifier
from moesaic.members.text_encoding import NgramEncoder, TextEncoder, WordEncoder

__all__ = [
    "ARCHITECTURES",
    "CausalLM",
    "Checkpoint",
    "EstimatorMember",
    "EstimatorModule",
    "ModuleMember",
    "NgramEncoder",
    "TensorHeader",
    "TextClassifier",
    "TextEncoder",
    "WordEncoder",
    "load_member",
    "load_network",
    "make_text_classifier",
    "quiet_transformers",
    "read_checkpoint",
]
