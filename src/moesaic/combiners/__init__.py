"""Members meet at logits: one method a file, each a word that recipes know."""

from moesaic.combiners.average import Average
from moesaic.combiners.base import COMBINERS, Combined, Combiner, State, build_combiner, register
from moesaic.combiners.posterior import Posterior
from moesaic.combiners.routed import Routed, top_k_routing
from moesaic.combiners.spaces import Space, combine
from moesaic.combiners.weighted import Weighted

__all__ = [
    "COMBINERS",
    "Average",
    "Combined",
    "Combiner",
    "Posterior",
    "Routed",
    "Space",
    "State",
    "Weighted",
    "build_combiner",
    "combine",
    "register",
    "top_k_routing",
]
