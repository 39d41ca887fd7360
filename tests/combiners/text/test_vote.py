import re

import pytest
from combiners.text.panels import WrittenPanel

from moesaic.combiners import Vote
from moesaic.combiners.text import same_wording, vote_shares


def vote(texts, **arguments):
    """One prompt, one or several answers a member."""
    panel = WrittenPanel(
        {member: {"?": [given] if isinstance(given, str) else given} for member, given in texts.items()}
    )
    [answer] = Vote(**arguments).combine(["?"], panel)
    return answer


def test_most_votes_win():
    answer = vote({"a": "4", "b": "5", "c": "4"})
    assert (answer.text, answer.member) == ("4", "a")
    # Two of three votes for "4"; they came from a and c, half each.
    assert answer.scores == (pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert answer.weights == {"a": 0.5, "b": 0.0, "c": 0.5}
    assert answer.asked == ("a", "b", "c")


def test_case_and_white_space_do_not_matter():
    answer = vote({"a": "No", "b": " The  cat\n", "c": "the CAT"})
    assert (answer.text, answer.member) == (" The  cat\n", "b")
    assert same_wording("Straße") == same_wording("STRASSE")


def test_of_equally_many_votes_the_first_members_answer_is_taken():
    answer = vote({"a": "5", "b": "4", "c": "4", "d": "5"})
    assert (answer.text, answer.member) == ("5", "a")


def test_weights_break_ties_and_majorities():
    # 3 against 1 + 1, of 5.
    answer = vote({"a": "4", "b": "4", "c": "5"}, weights=[1, 1, 3])
    assert answer.member == "c"
    assert answer.scores == pytest.approx((0.4, 0.4, 0.6))
    assert answer.weights == {"a": 0.0, "b": 0.0, "c": 1.0}


def test_what_counts_as_the_answer_can_be_extracted():
    def last_number(text):
        return re.findall(r"\d+", text)[-1]

    answer = vote({"a": "2 + 2 = 5", "b": "2 and 2 make 4", "c": "It is 4."}, extract=last_number)
    assert answer.text == "2 and 2 make 4"


def test_a_member_shares_its_vote_among_its_candidates():
    # a: 2/3 of its vote for "4", 1/3 for "5"; b all for "5": 4/3 of 2 votes are for "5", a quarter of them a's.
    answer = vote({"a": ["4", "4", "5"], "b": ["5", "5", "5"]})
    assert (answer.text, answer.member) == ("5", "a")
    assert answer.scores[2] == pytest.approx(2 / 3)
    assert answer.weights == pytest.approx({"a": 0.25, "b": 0.75})


def test_prompts_are_voted_on_one_by_one():
    panel = WrittenPanel({member: {"x": [member], "y": ["same"]} for member in "ab"})
    assert [answer.text for answer in Vote().combine(["x", "y"], panel)] == ["a", "same"]


def test_a_vote_prints_its_arguments():
    assert repr(Vote(weights=[1, 2])) == "Vote(weights=[1, 2], extract=None, normalize='same_wording')"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: vote_shares([]), "A vote needs at least one voter, got none."),
        (lambda: vote_shares(["4", "5"], [1]), "There are 1 weights for 2 votes; give one a vote."),
        (lambda: Vote(weights=[1, -1]), "weights must be non-negative and not all 0, got [1, -1]."),
        (lambda: Vote(weights=[0, 0]), "weights must be non-negative and not all 0, got [0, 0]."),
        (
            lambda: vote({"a": "4", "b": "5"}, weights=[1, 2, 3]),
            "There are 3 weights for 2 members (a, b); give one a member.",
        ),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence
