import pytest
from combiners.text.panels import WrittenPanel, candidate

from moesaic.combiners import TEXT_COMBINERS, Cascade, Vote, build_text_combiner, register_text
from moesaic.combiners.text import text_confidence

SIZES = {"large": 100, "small": 1, "middle": 10}


def panel(**log_probabilities):
    """Members that answer prompts "x" and "y" with the given log-probabilities of their only token."""
    answers = {
        member: {
            prompt: [candidate(member, f"{member} {prompt}", log_probability=given)]
            for prompt, given in zip("xy", of_member, strict=True)
        }
        for member, of_member in log_probabilities.items()
    }
    return WrittenPanel(answers, sizes={member: SIZES[member] for member in answers})


def test_a_larger_member_is_asked_only_what_the_smaller_is_unsure_of():
    members = panel(large=(-3, -3), small=(-1, -5), middle=(-9, -2))
    answers = Cascade(threshold=-2.5).combine(["x", "y"], members)
    assert [answer.text for answer in answers] == ["small x", "middle y"]
    assert members.questions == [("small", ("x", "y")), ("middle", ("y",))]
    assert [answer.asked for answer in answers] == [("small",), ("small", "middle")]
    assert answers[1].weights == {"large": 0.0, "small": 0.0, "middle": 1.0}
    assert answers[1].scores == (-5.0, -2.0)


def test_the_largest_member_answers_however_unsure():
    [answer, _] = Cascade(threshold=0.0).combine(["x", "y"], panel(large=(-30, -3), small=(-1, -1)))
    assert (answer.member, answer.asked) == ("large", ("small", "large"))


def test_each_member_can_have_its_own_threshold():
    # From the smallest on: small must reach -2, which it does not, middle -10, which it does.
    members = panel(large=(-3, -3), small=(-3, -3), middle=(-9, -9))
    answers = Cascade(threshold=[-2.0, -10.0]).combine(["x", "y"], members)
    assert {answer.member for answer in answers} == {"middle"}


def test_confidence_at_the_threshold_is_enough():
    answers = Cascade(threshold=-1.0).combine(["x", "y"], panel(large=(0, 0), small=(-1, -1.1)))
    assert [answer.member for answer in answers] == ["small", "large"]


def test_the_surest_candidate_of_the_member_is_taken():
    written = [candidate("small", text, log_probability=given) for text, given in [("a", -4), ("b", -1), ("c", -2)]]
    [answer] = Cascade(threshold=-1.5).combine(["x"], WrittenPanel({"small": {"x": written}}))
    assert answer.text == "b"


def test_confidence_is_a_mean_over_tokens():
    written = candidate("a", "text", log_probability=-6.0, num_tokens=4, margin=0.25, entropy=1.25)
    assert text_confidence(written) == -1.5
    assert text_confidence(written, "margin") == 0.25
    assert text_confidence(written, "entropy") == -1.25


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Cascade(threshold=0.0, confidence="luck"),
            "confidence must be one of log_probability, margin, entropy, got 'luck'.",
        ),
        (
            lambda: text_confidence(candidate("a", "b"), "luck"),
            "confidence must be one of log_probability, margin, entropy, got 'luck'.",
        ),
        (
            lambda: Cascade(threshold=[0.0, 0.0]).combine(["x", "y"], panel(large=(0, 0), small=(0, 0))),
            "There are 2 thresholds for a cascade of 2 members (small, large); give one for each member but the last.",
        ),
        (
            lambda: build_text_combiner("poll"),
            "No text combiner is called 'poll'; there are bayes_risk, cascade, rerank, vote.",
        ),
        (lambda: register_text("vote")(Vote), "The word 'vote' already names the text combiner Vote."),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence


def test_a_text_combiner_is_built_by_its_word():
    assert repr(build_text_combiner("cascade", threshold=-1.0)) == (
        "Cascade(threshold=-1.0, confidence='log_probability')"
    )


def test_a_text_combiner_of_ones_own_is_known_by_its_word():
    @register_text("first")
    class First(Vote):
        pass

    try:
        assert isinstance(build_text_combiner("first"), First)
    finally:
        del TEXT_COMBINERS["first"]
