import pytest
from combiners.text.panels import WrittenPanel, candidate

from moesaic.combiners import Rerank
from moesaic.combiners.text import score_per_unit

ANSWERS = {"a": {"?": ["für"]}, "b": {"?": ["gegen alle"]}}
OPINIONS = {"a": {"für": -1.0, "gegen alle": -22.0}, "b": {"für": -9.0, "gegen alle": -2.2}}


def test_the_highest_sum_of_scores_wins():
    [answer] = Rerank().combine(["?"], WrittenPanel(ANSWERS, opinions=OPINIONS))
    # "für" is 4 bytes and its end: (-1/5 - 9/5)/2 = -1. "gegen alle" is 10 and its end: (-22/11 - 2.2/11)/2 = -1.1.
    assert answer.scores == pytest.approx((-1.0, -1.1))
    assert (answer.text, answer.member) == ("für", "a")
    assert answer.weights == {"a": 0.5, "b": 0.5}


def test_weights_say_whose_score_counts():
    [answer] = Rerank(weights=[1, 3]).combine(["?"], WrittenPanel(ANSWERS, opinions=OPINIONS))
    # "für": (-1/5 - 3 * 9/5)/4 = -1.4. "gegen alle": (-2 - 3 * 0.2)/4 = -0.65.
    assert answer.scores == pytest.approx((-1.4, -0.65))
    assert answer.member == "b"
    assert answer.weights == {"a": 0.25, "b": 0.75}


def test_texts_that_were_cut_off_have_no_end_to_count():
    answers = {"a": {"?": [candidate("a", "für", is_finished=False)]}}
    [answer] = Rerank(per="character").combine(["?"], WrittenPanel(answers, opinions=OPINIONS))
    assert answer.scores == pytest.approx((-1 / 3,))


@pytest.mark.parametrize(
    ("text", "is_finished", "per", "expected"),
    [
        ("für", True, "byte", -6 / 5),
        ("für", False, "byte", -6 / 4),
        ("für", True, "character", -6 / 4),
        ("für", True, "text", -6),
        ("", True, "byte", -6),
        ("", False, "byte", -6),
    ],
)
def test_log_probabilities_are_divided_by_length(text, is_finished, per, expected):
    assert score_per_unit(-6.0, text, is_finished=is_finished, per=per) == pytest.approx(expected)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match=r"^per must be one of byte, character, text, got 'token'\.$"):
        Rerank(per="token")
