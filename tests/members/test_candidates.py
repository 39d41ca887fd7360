import pytest
import torch

from moesaic.data import train_tokenizer
from moesaic.errors import MemberError
from moesaic.members import CausalLM, Sampling, score_candidates, write_candidates
from moesaic.testing import tiny_causal_lm, tiny_tokenizer
from moesaic.types import Candidate

PROMPTS = ["the cat", "le chat dort sur"]
GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture
def member():
    """A member of one's own, to be changed."""
    return CausalLM("writer", tiny_causal_lm(seed=1), tiny_tokenizer())


def tokens_of(member, prompt, **arguments):
    """The prompt's tokens and those that plain Transformers writes after them."""
    inputs = member.tokenizer(prompt, return_tensors="pt")["input_ids"]
    arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0} | arguments
    tokens = member.network.generate(inputs, attention_mask=torch.ones_like(inputs), **arguments)
    return tokens[0], inputs.shape[1]


def written(text, *, is_finished=False):
    return Candidate(text, "somebody", -1.0, 1, 0.0, 0.0, is_finished=is_finished)


@torch.no_grad()
def log_probability(member, tokens, num_prompt_tokens):
    predictions = member.network(tokens[None]).logits[0].log_softmax(-1)
    return sum(predictions[at - 1, tokens[at]].item() for at in range(num_prompt_tokens, len(tokens)))


def test_a_candidate_knows_how_sure_its_writer_was(member):
    tokens, start = tokens_of(member, PROMPTS[0])
    predictions = member.network(tokens[None]).logits[0, start - 1 : -1].softmax(-1)
    likeliest = predictions.sort(descending=True).values
    [(candidate,)] = write_candidates(member, PROMPTS[:1], GREEDY)
    assert candidate.text == member.tokenizer.decode(tokens[start:])
    assert (candidate.member, candidate.num_tokens, candidate.is_finished) == ("writer", 6, False)
    assert candidate.log_probability == pytest.approx(log_probability(member, tokens, start), abs=1e-4)
    assert candidate.margin == pytest.approx((likeliest[:, 0] - likeliest[:, 1]).mean().item(), abs=1e-5)
    assert candidate.entropy == pytest.approx(-(predictions * predictions.log()).sum(-1).mean().item(), abs=1e-4)


def test_prompts_of_different_lengths_are_answered_together_as_alone(member):
    together = write_candidates(member, PROMPTS, GREEDY)
    alone = [write_candidates(member, [prompt], GREEDY)[0] for prompt in PROMPTS]
    assert [one.text for (one,) in together] == [one.text for (one,) in alone]
    assert [one.log_probability for (one,) in together] == pytest.approx([one.log_probability for (one,) in alone])


@pytest.mark.parametrize("as_list", [True, False])
def test_an_answer_ends_at_the_end_of_text(member, as_list):
    tokens, start = tokens_of(member, PROMPTS[0])
    end = tokens[start + 2].item()
    assert end not in tokens[start : start + 2]
    member.network.generation_config.eos_token_id = [0, end] if as_list else end
    # Beside a prompt whose answer is longer, so that this one is padded.
    (candidate,), (longer,) = write_candidates(member, PROMPTS, GREEDY)
    assert longer.num_tokens > 3
    assert (candidate.num_tokens, candidate.is_finished) == (3, True)
    assert candidate.text == member.tokenizer.decode(tokens[start : start + 2])
    assert candidate.log_probability == pytest.approx(log_probability(member, tokens[: start + 3], start), abs=1e-4)


def test_chance_is_made_by_the_seed_and_leaves_no_trace(member):
    before = torch.random.get_rng_state()
    first, again, other = (
        write_candidates(member, PROMPTS, Sampling(6, num_candidates=3, temperature=1.0, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert [len(given) for given in first] == [3, 3]
    assert len({candidate.text for candidate in first[0]}) > 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_temperature_changes_what_is_written_and_not_how_probable_it_is(member):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        tokens, start = tokens_of(member, PROMPTS[0], do_sample=True, temperature=3.0, top_k=0)
    [(candidate,)] = write_candidates(member, PROMPTS[:1], Sampling(6, temperature=3.0, seed=5))
    assert candidate.text == member.tokenizer.decode(tokens[start:])
    assert candidate.log_probability == pytest.approx(log_probability(member, tokens, start), abs=1e-4)


def test_a_text_is_scored_in_the_members_own_tokens():
    tokenizer = train_tokenizer(["the dog sat on the dog"], 270)
    member = CausalLM("reader", tiny_causal_lm(seed=4, vocab_size=len(tokenizer)), tokenizer)
    tokens = torch.tensor(tokenizer("the cat sat on")["input_ids"])
    start = len(tokenizer("the cat")["input_ids"])
    assert len(tokens) != len(tiny_tokenizer()("the cat sat on")["input_ids"])
    [scores] = score_candidates(member, ["the cat"], [[written(" sat on"), written(" sat on", is_finished=True)]])
    assert scores[0] == pytest.approx(log_probability(member, tokens, start), abs=1e-4)
    # The same, and the end of the text, which is token 0.
    ended = torch.cat([tokens, torch.tensor([0])])
    assert scores[1] == pytest.approx(log_probability(member, ended, start), abs=1e-4)


def test_a_text_that_grows_together_with_its_prompt_is_read_by_itself(member):
    # "the cat" is two tokens, of which " cat" is one; "the c" and "at" are cut elsewhere.
    prompt, rest = (member.tokenizer(text)["input_ids"] for text in ("the c", "at"))
    assert member.tokenizer("the cat")["input_ids"][: len(prompt)] != prompt
    [(score,)] = score_candidates(member, ["the c"], [[written("at")]])
    assert score == pytest.approx(log_probability(member, torch.tensor(prompt + rest), len(prompt)), abs=1e-4)


def test_an_empty_text_that_was_cut_off_says_nothing(member):
    assert score_candidates(member, PROMPTS, [[written("")], []]) == [(0.0,), ()]


def test_scores_do_not_depend_on_the_batch(member):
    candidates = [[written(" sat"), written(" sat on the mat")], [written(" la")]]
    one_by_one = score_candidates(member, PROMPTS, candidates, batch_size=1)
    for apart, together in zip(one_by_one, score_candidates(member, PROMPTS, candidates), strict=True):
        assert together == pytest.approx(apart, abs=1e-4)


def test_a_member_that_gives_nan_is_named(member):
    with torch.no_grad():
        member.network.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(
        MemberError, match=r"^These members give NaN: 'writer' for 2 of 2 positions\. Their weights are"
    ):
        write_candidates(member, PROMPTS, Sampling(6, temperature=1.0))
    num_tokens = len(member.tokenizer("the cat sat")["input_ids"])
    with pytest.raises(MemberError, match=rf"NaN: 'writer' for {num_tokens} of {num_tokens} positions\. Their weights"):
        score_candidates(member, PROMPTS[:1], [[written(" sat")]])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0."),
        ({"num_candidates": 0}, "num_candidates must be at least 1, got 0."),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1."),
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5."),
        (
            {"num_candidates": 3},
            "At temperature 0 all 3 candidates of a member would be the same. Use num_candidates=1, or a temperature "
            "above 0.",
        ),
    ],
)
def test_bad_numbers_are_refused(arguments, sentence):
    with pytest.raises(ValueError) as error:
        Sampling(**{"max_new_tokens": 4, **arguments})
    assert str(error.value) == sentence


def test_a_member_without_a_tokenizer_cannot_write(member):
    with pytest.raises(ValueError, match=r"^Member 'mute' has no tokenizer, so it cannot read or write text\.$"):
        write_candidates(CausalLM("mute", member.network), PROMPTS, GREEDY)


def test_a_prompt_without_tokens_cannot_be_continued(member):
    with pytest.raises(ValueError, match=r"^Prompt 1 is empty for member 'writer'; give at least one character\.$"):
        write_candidates(member, ["the cat", ""], GREEDY)
