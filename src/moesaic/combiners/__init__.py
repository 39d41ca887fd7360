"""Members meet at logits: one method a file, each a word that recipes know."""

from moesaic.combiners.additive import Additive
from moesaic.combiners.average import Average
from moesaic.combiners.base import COMBINERS, Combined, Combiner, State, build_combiner, register
from moesaic.combiners.domain_weighted import DomainWeighted
from moesaic.combiners.entropy import Entropy
from moesaic.combiners.posterior import Posterior
from moesaic.combiners.routed import Routed, top_k_routing
from moesaic.combiners.spaces import Space, combine
from moesaic.combiners.stacked import Stacked
from moesaic.combiners.tempered import Tempered
from moesaic.combiners.weighted import Weighted

__all__ = [
    "COMBINERS",
    "Additive",
    "Average",
    "Combined",
    "Combiner",
    "DomainWeighted",
    "Entropy",
    "Posterior",
    "Routed",
    "Space",
    "Stacked",
    "State",
    "Tempered",
    "Weighted",
    "build_combiner",
    "combine",
    "register",
    "top_k_routing",
]
