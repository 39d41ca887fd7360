"""Members meet at logits or at text: one method a file, each a word that recipes know."""

from moesaic.combiners.additive import Additive
from moesaic.combiners.average import Average
from moesaic.combiners.base import COMBINERS, Combined, Combiner, State, build_combiner, register
from moesaic.combiners.by_source import BySource
from moesaic.combiners.choices import (
    CHOICES,
    Choice,
    ExpertChoice,
    Hard,
    NoisyTopK,
    ReLU,
    Sigmoid,
    Softmax,
    TopK,
    TopP,
    build_choice,
    register_choice,
    top_k_routing,
)
from moesaic.combiners.clustered import Clustered
from moesaic.combiners.deferral import (
    CalibratedThreshold,
    calibrate_threshold,
    cascade_choice,
    cascade_probabilities,
    class_confidence,
)
from moesaic.combiners.domain_weighted import DomainWeighted
from moesaic.combiners.entropy import Entropy
from moesaic.combiners.posterior import Posterior
from moesaic.combiners.routed import Routed
from moesaic.combiners.selective import Selective
from moesaic.combiners.spaces import Space, combine
from moesaic.combiners.sparse_posterior import SparsePosterior
from moesaic.combiners.stacked import Stacked
from moesaic.combiners.tempered import Tempered
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
    "CHOICES",
    "COMBINERS",
    "TEXT_COMBINERS",
    "Additive",
    "Average",
    "BayesRisk",
    "BySource",
    "CalibratedThreshold",
    "Cascade",
    "Choice",
    "Clustered",
    "Combined",
    "Combiner",
    "DomainWeighted",
    "Entropy",
    "ExpertChoice",
    "Hard",
    "NoisyTopK",
    "Posterior",
    "ReLU",
    "Rerank",
    "Routed",
    "Selective",
    "Sigmoid",
    "Softmax",
    "Space",
    "SparsePosterior",
    "Stacked",
    "State",
    "Tempered",
    "TextCombiner",
    "TopK",
    "TopP",
    "Vote",
    "Weighted",
    "build_choice",
    "build_combiner",
    "build_text_combiner",
    "calibrate_threshold",
    "cascade_choice",
    "cascade_probabilities",
    "class_confidence",
    "combine",
    "register",
    "register_choice",
    "register_text",
    "top_k_routing",
]
