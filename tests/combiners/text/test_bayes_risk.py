import pytest
from combiners.text.panels import WrittenPanel

from moesaic.combiners import BayesRisk
from moesaic.combiners.text import expected_utilities


def closeness(hypothesis, reference):
    return -abs(float(hypothesis) - float(reference))


def test_the_utility_is_averaged_over_all_candidates():
    # 1: -(0 + 1 + 5)/3 = -2; 2: -(1 + 0 + 4)/3; 6: -(5 + 4 + 0)/3 = -3. The median has the least absolute loss.
    assert expected_utilities(["1", "2", "6"], utility=closeness) == pytest.approx([-2, -5 / 3, -3])


def test_candidates_count_by_their_weights():
    # 1: -(5 * 8)/10 = -4; 6: -(5 * 2)/10 = -1.
    assert expected_utilities(["1", "6"], [2, 8], utility=closeness) == pytest.approx([-4, -1])


def test_the_hypothesis_is_the_first_argument():
    # "a" is a part of all three, "abc" only of itself.
    utilities = expected_utilities(["a", "ab", "abc"], utility=lambda hypothesis, reference: hypothesis in reference)
    assert utilities == pytest.approx([1, 2 / 3, 1 / 3])


def test_the_answer_is_the_one_most_like_the_others():
    panel = WrittenPanel({"a": {"?": ["a dog ran"]}, "b": {"?": ["the cat sat"]}, "c": {"?": ["the cat sits"]}})
    [answer] = BayesRisk().combine(["?"], panel)
    assert answer.text.startswith("the cat")
    assert answer.scores[0] == min(answer.scores)
    assert answer.weights == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_a_member_that_is_always_right_is_followed():
    panel = WrittenPanel({"a": {"?": ["1", "1"]}, "b": {"?": ["6", "7"]}})
    [answer] = BayesRisk(utility=closeness, weights=[0, 1]).combine(["?"], panel)
    assert (answer.text, answer.member) == ("6", "b")
    assert answer.weights == {"a": 0.0, "b": 1.0}


def test_equal_texts_are_compared_once():
    compared = []

    def count(hypothesis, reference):
        compared.append((hypothesis, reference))
        return 0.0

    expected_utilities(["x"] * 5 + ["y"] * 5, utility=count)
    assert len(compared) == 4  # x and y with x and y


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: expected_utilities([]), "Minimum Bayes risk needs at least one candidate, got none."),
        (lambda: expected_utilities(["a"], [1, 1]), "There are 2 weights for 1 texts; give one a text."),
        (lambda: BayesRisk(weights=[]), "weights must be non-negative and not all 0, got []."),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence
