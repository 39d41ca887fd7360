"""Fast experts for any Transformers mixture of experts.

Importing this module makes the word ``moesaic`` known to Transformers, so two lines speed up a model that is otherwise
left as it is::

    import moesaic.experts
    model.set_experts_implementation("moesaic")

Read :mod:`moesaic.experts.layer` first; then ``functions`` (forward and backward), ``methods`` (which method when) and
``grouped`` with its C++.
"""

from moesaic.experts.decoding import fast_decoding
from moesaic.experts.frozen import train_only
from moesaic.experts.grouped import InstructionSet, instruction_set, is_available
from moesaic.experts.layer import IMPLEMENTATION, experts_forward
from moesaic.experts.methods import choose_method

__all__ = [
    "IMPLEMENTATION",
    "InstructionSet",
    "choose_method",
    "experts_forward",
    "fast_decoding",
    "instruction_set",
    "is_available",
    "train_only",
]
