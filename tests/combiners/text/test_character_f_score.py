import pytest

from moesaic.combiners.text import character_f_score


@pytest.mark.parametrize(
    ("hypothesis", "reference", "max_order", "expected"),
    [
        # Characters: 2 of 3 in common. Pairs: "ab" of two. Precision = recall = (2/3 + 1/2) / 2 = 7/12, so F = 7/12.
        ("abc", "abd", 2, 7 / 12),
        # Precision 1; recall (2/4 + 1/3) / 2 = 5/12; F2 = 5 * 1 * 5/12 / (4 * 1 + 5/12) = 25/53.
        ("ab", "abcd", 2, 25 / 53),
        # The other way round: recall 1, precision 5/12; F2 = 5 * 5/12 / (4 * 5/12 + 1) = 25/32.
        ("abcd", "ab", 2, 25 / 32),
        # A character that occurs once in the reference is common once: precision 1/3, recall 1; F2 = 5/3 / (7/3) = 5/7.
        ("aaa", "a", 6, 5 / 7),
        ("the cat", "the cat", 6, 1.0),
        ("the cat", " thec at", 6, 1.0),
        ("abc", "xyz", 6, 0.0),
        ("", "abc", 6, 0.0),
        ("abc", " ", 6, 0.0),
        ("", "", 6, 1.0),
    ],
)
def test_worked_examples(hypothesis, reference, max_order, expected):
    assert character_f_score(hypothesis, reference, max_order=max_order) == pytest.approx(expected)


def test_without_favor_it_is_symmetric():
    first, second = character_f_score("ab", "abcd", beta=1), character_f_score("abcd", "ab", beta=1)
    assert first == pytest.approx(second)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_order": 0}, "max_order must be at least 1, got 0."),
        ({"beta": 0.0}, "beta must be above 0, got 0."),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(ValueError) as error:
        character_f_score("a", "b", **arguments)
    assert str(error.value) == sentence
