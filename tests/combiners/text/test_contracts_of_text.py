import pytest

from moesaic.combiners import TEXT_COMBINERS, BayesRisk, Cascade, Rerank, Vote
from moesaic.testing import check_text_combiner

CASES = {
    "vote": Vote,
    "vote on the first word": lambda: Vote(extract=lambda text: text.split(" ")[0]),
    "minimum Bayes risk": BayesRisk,
    "minimum Bayes risk of exact matches": lambda: BayesRisk(utility=lambda first, second: float(first == second)),
    "rerank": Rerank,
    "rerank by whole texts": lambda: Rerank(per="text"),
    "cascade that always goes on": lambda: Cascade(threshold=1.0),
    "cascade that never goes on": lambda: Cascade(threshold=float("-inf")),
    "cascade that goes on at times": lambda: Cascade(threshold=-1.5),
    "cascade by margin": lambda: Cascade(threshold=0.3, confidence="margin"),
    "cascade by entropy": lambda: Cascade(threshold=-2.0, confidence="entropy"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_text_combiner_keeps_the_contract(name):
    check_text_combiner(CASES[name])


def test_every_registered_text_combiner_is_checked():
    assert {make().word for make in CASES.values()} == set(TEXT_COMBINERS)
