import pytest

from moesaic.combiners import COMBINERS, Average, Posterior, Routed, Weighted
from moesaic.testing import check_combiner

CASES = {
    "probability average": (Average, False),
    "log-probability average": (lambda: Average("log_probability"), False),
    "logit average": (lambda: Average("logit"), False),
    "weighted": (Weighted, True),
    "weighted in log-probability": (lambda: Weighted(space="log_probability"), True),
    "routed, dense": (Routed, True),
    "routed, dense, logit": (lambda: Routed(space="logit"), True),
    "posterior": (Posterior, False),
    "posterior that forgets": (lambda: Posterior(forgetting=0.9), False),
}


@pytest.mark.parametrize("name", CASES)
def test_every_combiner_keeps_the_contract(name):
    make, learns = CASES[name]
    check_combiner(make, learns=learns)


def test_every_registered_combiner_is_checked():
    assert {make().word for make, _ in CASES.values()} == set(COMBINERS)
