import pytest
import torch

from moesaic.arena import score_classifier
from moesaic.combiners import Average
from moesaic.members import score_choices
from moesaic.mixture import Mixture

PROMPTS = ["the cat sat on", "Katze?"]
CHOICES = [["the mat", "a"], ["ja", "nein", "die Matte"]]


def by_hand(member, prompt, choice):
    """Summed over the tokens of the choice, one forward pass without padding; and how many they are."""
    context, joint = (member.tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {choice}"))
    assert joint[: len(context)] == context
    logits = member.network(input_ids=torch.tensor([joint])).logits[0].float().log_softmax(-1)
    scores = [logits[place - 1, joint[place]].item() for place in range(len(context), len(joint))]
    return sum(scores), len(scores)


@pytest.mark.parametrize("normalization", ["none", "tokens", "bytes"])
def test_the_score_is_the_sum_over_the_tokens_of_the_choice_divided_as_named(members, normalization):
    scores = score_choices(members[0], PROMPTS, CHOICES, normalization=normalization, batch_size=3)
    assert scores.shape == (2, 3)
    assert scores[0, 2] == -torch.inf
    for row, (prompt, given) in enumerate(zip(PROMPTS, CHOICES, strict=True)):
        for column, choice in enumerate(given):
            total, count = by_hand(members[0], prompt, choice)
            divisor = {"none": 1, "tokens": count, "bytes": len(choice)}[normalization]
            assert scores[row, column].item() == pytest.approx(total / divisor, rel=1e-4)


def test_a_mixture_of_one_scores_as_its_member_and_batches_change_nothing(members):
    alone = score_choices(members[0], PROMPTS, CHOICES)
    mixture = Mixture([members[0]], Average("probability"))
    torch.testing.assert_close(score_choices(mixture, PROMPTS, CHOICES, batch_size=1), alone, rtol=1e-4, atol=1e-4)
    two = score_choices(Mixture(members[:2], Average("probability")), PROMPTS, CHOICES)
    assert not torch.allclose(two[1], alone[1])


def test_scores_of_fixed_choices_are_measured_as_classes(members):
    questions = ["the cat sat?", "le chat dort?", "die Katze saß?"]
    scores = score_choices(members[0], questions, [["yes", "no", "maybe"]] * 3, normalization="bytes")
    measured = score_classifier(scores, scores.argmax(dim=1))
    assert (measured.accuracy, measured.macro_precision, measured.macro_recall, measured.macro_f1) == (1, 1, 1, 1)


def test_what_cannot_be_chosen_from_is_refused(members):
    with pytest.raises(ValueError, match=r"^normalization must be one of none, tokens, bytes, got 'words'\.$"):
        score_choices(members[0], PROMPTS, CHOICES, normalization="words")
    with pytest.raises(ValueError, match=r"^Every prompt needs choices: got 2 prompts and choices for 1\.$"):
        score_choices(members[0], PROMPTS, CHOICES[:1])
    with pytest.raises(ValueError) as error:
        score_choices(members[0], PROMPTS, [["a"], ["b", ""]])
    assert str(error.value) == "Prompt 1 has the choices ['b', '']; give it at least one, and none that is empty."
