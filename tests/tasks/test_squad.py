import pytest

from moesaic.tasks import answer_f1, exact_match, normalize_answer


def test_case_punctuation_articles_and_white_space_do_not_decide():
    assert normalize_answer("  The\tcat, an  apple; a 'Theater' ") == "cat apple theater"
    assert exact_match("the U.S.A.", ["usa"]) == 1


def test_the_nearest_answer_counts():
    # 2 of the 3 words said are right, and 2 of the 4 to be said were: 2 * 2 / (3 + 4)
    assert answer_f1("old red house", ["tree", "old red brick barn"]) == pytest.approx(4 / 7)
    assert exact_match("tree", ["house", "Tree"]) == 1


def test_a_word_said_twice_counts_once_where_it_was_to_be_said_once():
    assert answer_f1("red red", ["red house"]) == pytest.approx(0.5)


def test_where_there_is_no_answer_nothing_is_right():
    assert answer_f1("", []) == exact_match("", []) == 1
    assert answer_f1("something", []) == exact_match("something", []) == 0
    assert answer_f1("the", ["cat"]) == 0


def test_scripts_without_spaces_are_compared_character_by_character():
    # 3 characters are shared, of 5 and of 3
    assert answer_f1("在北京大学", ["北京大"]) == pytest.approx(6 / 8)


def test_a_language_brings_its_articles_and_punctuation_of_all_scripts():
    assert normalize_answer("„Die Katze“", language="de") == "katze"
    assert normalize_answer("„Die Katze“") == "„die katze“"
    assert normalize_answer("the ‘кот’", language="ru") == "the кот"
