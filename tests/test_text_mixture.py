import pytest
import torch

import moesaic
from moesaic.combiners import Average, BayesRisk, Cascade, Rerank, Vote
from moesaic.data import train_tokenizer
from moesaic.errors import IncompatibleMembersError, MemberError
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.testing import tiny_causal_lm
from moesaic.testing.tiny import SENTENCES
from moesaic.text_mixture import TextMixture

PROMPTS = ["the cat", "def"]


@pytest.fixture(scope="module")
def foreign():
    """A larger member with a vocabulary of its own."""
    tokenizer = train_tokenizer(SENTENCES, 280)
    return CausalLM("foreign", tiny_causal_lm(seed=9, vocab_size=len(tokenizer), num_hidden_layers=3), tokenizer)


@pytest.fixture
def refuses_to_write(monkeypatch):
    """Make a member fail when it is asked."""

    def refuse(member):
        monkeypatch.setattr(member.network, "generate", lambda *_, **__: pytest.fail(f"{member.name} was asked"))

    return refuse


def test_members_that_cannot_meet_at_logits_meet_at_text(members, foreign):
    together = [members[0], foreign]
    with pytest.raises(
        IncompatibleMembersError, match=r"moesaic\.TextMixture\(members, moesaic\.combiners\.Rerank\(\)\)"
    ):
        moesaic.Mixture(together, Average())
    answers = moesaic.TextMixture(together, moesaic.combiners.Rerank()).generate(PROMPTS, max_new_tokens=5)
    for answer in answers:
        by_score = dict(zip(answer.scores, answer.candidates, strict=True))
        assert answer.text == by_score[max(answer.scores)].text == str(answer)
        assert [candidate.member for candidate in answer.candidates] == ["general", "foreign"]


def test_a_cascade_runs_only_who_must_be_asked(members, foreign, refuses_to_write):
    refuses_to_write(foreign)
    answers = TextMixture([foreign, members[0]], Cascade(threshold=-1e9)).generate(PROMPTS, max_new_tokens=5)
    assert [answer.asked for answer in answers] == [("general",), ("general",)]


def test_a_cascade_passes_on_what_the_small_member_is_unsure_of(members, foreign):
    small = TextMixture(members[:1], Vote()).generate(PROMPTS, max_new_tokens=5)
    sureness = [answer.candidates[0].log_probability / answer.candidates[0].num_tokens for answer in small]
    between = sum(sureness) / 2
    answers = TextMixture([members[0], foreign], Cascade(threshold=between)).generate(PROMPTS, max_new_tokens=5)
    asked = [("general", "foreign") if given < between else ("general",) for given in sureness]
    assert [answer.asked for answer in answers] == asked
    assert set(map(len, asked)) == {1, 2}


def test_a_mixture_at_logits_is_a_member_at_text(members, foreign):
    inner = Mixture(members, Average(), name="inner").eval()
    answers = TextMixture([inner, foreign], BayesRisk()).generate(PROMPTS, max_new_tokens=5)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        inputs = inner.tokenizer(prompt, return_tensors="pt")["input_ids"]
        tokens = inner.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=5, pad_token_id=0)
        assert answer.candidates[0].member == "inner"
        assert answer.candidates[0].text == inner.tokenizer.decode(
            tokens[0, inputs.shape[1] :], skip_special_tokens=True
        )


def test_every_member_gives_as_many_candidates(members):
    mixture = TextMixture(members, BayesRisk())
    [answer] = mixture.generate(PROMPTS[:1], max_new_tokens=5, num_candidates=4, temperature=1.0, seed=3)
    assert [candidate.member for candidate in answer.candidates] == ["general"] * 4 + ["news"] * 4 + ["law"] * 4


def test_a_damaged_member_is_named(members):
    network = tiny_causal_lm(seed=3)
    with torch.no_grad():
        network.lm_head.weight.fill_(float("nan"))
    mixture = TextMixture([members[0], CausalLM("damaged", network, members[0].tokenizer)], Rerank())
    with pytest.raises(
        MemberError, match=r"^These members give NaN: 'damaged' for 2 of 2 positions\. Their weights are"
    ):
        mixture.generate(PROMPTS, max_new_tokens=5)


def test_a_text_mixture_prints_its_members_and_combiner(members):
    assert repr(TextMixture(members, Rerank())) == "TextMixture([general, news, law], Rerank(per='byte', weights=None))"


@pytest.mark.parametrize(
    ("choose", "sentence"),
    [
        (lambda _: [], "A mixture needs at least one member, got none."),
        (lambda members: [members[1], members[1]], "Two members are called 'news'; give each its own name."),
        (
            lambda members: [CausalLM("mute", members[0].network)],
            "Member 'mute' has no tokenizer, so it cannot read or write text. Load it from a folder that holds one.",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(members, choose, sentence):
    with pytest.raises(ValueError) as error:
        TextMixture(choose(members), Rerank())
    assert str(error.value) == sentence


def test_a_combiner_of_logits_is_refused(members):
    with pytest.raises(ValueError) as error:
        TextMixture(members, Average())
    assert str(error.value) == (
        "Average(space='probability') combines logits, not texts. Use a text combiner, for instance "
        "moesaic.combiners.Rerank(), or moesaic.Mixture."
    )


@pytest.mark.parametrize(
    ("prompts", "arguments", "sentence"),
    [
        ([], {}, "prompts must be a list of at least one text, got []."),
        ("the cat", {}, "prompts must be a list of at least one text, got 'the cat'."),
        (["the cat", ""], {}, "Prompt 1 is empty; give at least one character."),
        (["the cat"], {"num_candidates": 0}, "num_candidates must be at least 1, got 0."),
    ],
)
def test_bad_questions_are_refused(members, prompts, arguments, sentence):
    with pytest.raises(ValueError) as error:
        TextMixture(members, Rerank()).generate(prompts, max_new_tokens=2, **arguments)
    assert str(error.value) == sentence
