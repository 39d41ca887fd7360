"""Members meet at logits or at text: one method a file, each a word that recipes know."""

from moesaic.combiners.average import Average
from moesaic.combiners.base import COMBINERS, Combined, Combiner, State, build_combiner, register
from moesaic.combiners.deferral import (
    CalibratedThreshold,
    calibrate_threshold,
    cascade_choice,
    cascade_probabilities,
    class_confidence,
)
from moesaic.combiners.posterior import Posterior
from moesaic.combiners.routed import Routed, top_k_routing
from moesaic.combiners.spaces import Space, combine
from moesaic.combiners.text import (
    TEXT_COMBINERS,
    BayesRisk,
    Cascade,
    Rerank,
    TextCombiner,
    Vote,
    build_text_combiner,
    register_text,
)
from moesaic.combiners.weighted import Weighted

__all__ = [
    "COMBINERS",
    "TEXT_COMBINERS",
    "Average",
    "BayesRisk",
    "CalibratedThreshold",
    "Cascade",
    "Combined",
    "Combiner",
    "Posterior",
    "Rerank",
    "Routed",
    "Space",
    "State",
    "TextCombiner",
    "Vote",
    "Weighted",
    "build_combiner",
    "build_text_combiner",
    "calibrate_threshold",
    "cascade_choice",
    "cascade_probabilities",
    "class_confidence",
    "combine",
    "register",
    "register_text",
    "top_k_routing",
]
