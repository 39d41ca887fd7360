import pytest

from moesaic.recipe.task_scores import measure
from moesaic.tasks import ONLY, Chat, TaskSet

PAIRS = [Chat().pair({"prompt": "Who?", "response": text}, "row") for text in ("Ann.", "Ben danced.")]
ANSWERS = {"first": ["Ann.", "Ben."], "second": ["Ben.", "Ann."]}


def test_the_log_likelihood_is_the_mean_over_all_tokens():
    likelihoods = {"first": [(-1.0, 1), (-5.0, 3)], "second": [(-4.0, 1), (-8.0, 3)]}
    measured = measure(TaskSet({ONLY: Chat()}), ONLY, ANSWERS, likelihoods, PAIRS, baseline="first", num_resamples=20)
    assert list(measured["first"]) == list(Chat.metrics)
    # 6 nats over 4 tokens, and 12 nats over the same 4.
    assert measured["first"]["log-likelihood"].value == pytest.approx(-1.5)
    assert measured["second"]["log-likelihood"].value == pytest.approx(-3)
    assert measured["first"]["log-likelihood"].p_value is None


@pytest.mark.parametrize("likelihoods", [{}, {"second": [(-1.0, 1), (-1.0, 1)]}])
def test_without_those_of_the_baseline_there_is_nothing_to_compare_with(likelihoods):
    measured = measure(TaskSet({ONLY: Chat()}), ONLY, ANSWERS, likelihoods, PAIRS, baseline="first", num_resamples=20)
    assert "log-likelihood" not in measured["first"] | measured["second"]
