"""Members meet at text, where vocabularies may differ: one method a file, each a registered word."""

from moesaic.combiners.text.base import TEXT_COMBINERS, Panel, TextCombiner, build_text_combiner, register_text
from moesaic.combiners.text.bayes_risk import BayesRisk, Utility, expected_utilities
from moesaic.combiners.text.cascade import Cascade, Confidence, text_confidence
from moesaic.combiners.text.character_f_score import character_f_score
from moesaic.combiners.text.rerank import Rerank, score_per_unit, summed_scores
from moesaic.combiners.text.vote import Vote, same_wording, vote_shares

__all__ = [
    "TEXT_COMBINERS",
    "BayesRisk",
    "Cascade",
    "Confidence",
    "Panel",
    "Rerank",
    "TextCombiner",
    "Utility",
    "Vote",
    "build_text_combiner",
    "character_f_score",
    "expected_utilities",
    "register_text",
    "same_wording",
    "score_per_unit",
    "summed_scores",
    "text_confidence",
    "vote_shares",
]
