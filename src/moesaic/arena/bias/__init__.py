"""Whether models prefer stereotypes, and whether combining them helps or spreads it."""

from moesaic.arena.bias.bbq import AnswerScores, Question, read_bbq, score_bbq
from moesaic.arena.bias.crows_pairs import PairScores, SentencePair, read_crows_pairs, score_crows_pairs
from moesaic.arena.bias.table import BiasRow, BiasTable, measure_bias

__all__ = [
    "AnswerScores",
    "BiasRow",
    "BiasTable",
    "PairScores",
    "Question",
    "SentencePair",
    "measure_bias",
    "read_bbq",
    "read_crows_pairs",
    "score_bbq",
    "score_crows_pairs",
]
