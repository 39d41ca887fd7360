import pytest
import torch

from moesaic import Mixture
from moesaic.arena.likelihood import Continuation, context_length, prefix_token, score_continuations
from moesaic.combiners import Average
from moesaic.errors import MemberError
from moesaic.members import CausalLM
from moesaic.testing import tiny_causal_lm, tiny_tokenizer


@pytest.fixture(scope="module")
def network():
    return tiny_causal_lm(seed=3)


def test_an_answer_of_one_token_costs_no_reading_of_its_own(network):
    seen = []
    hook = network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    continuations = [Continuation((4, 5, 6), (token,)) for token in range(300)]
    found = score_continuations(network, continuations, batch_size=8, max_length=64)
    hook.remove()
    assert seen == [(1, 3)]
    total = torch.tensor([likelihood.log_probability for likelihood in found]).logsumexp(0)
    assert total.item() == pytest.approx(0, abs=1e-4)
    assert sum(likelihood.is_greedy for likelihood in found) == 1


def test_each_token_is_scored_given_all_before_it(network):
    [found] = score_continuations(network, [Continuation((4, 5), (6, 7, 8))], batch_size=1, max_length=64)
    with torch.no_grad():
        log_probabilities = network(torch.tensor([[4, 5, 6, 7]])).logits[0].log_softmax(-1)
    expected = log_probabilities[1, 6] + log_probabilities[2, 7] + log_probabilities[3, 8]
    assert found.log_probability == pytest.approx(expected.item(), abs=1e-5)


def test_batches_and_lengths_change_nothing(network):
    continuations = [Continuation(tuple(range(3, 3 + length)), (9, length)) for length in (1, 5, 12, 2)]
    alone = score_continuations(network, continuations, batch_size=1, max_length=64)
    together = score_continuations(network, continuations, batch_size=4, max_length=64)
    expected = [likelihood.log_probability for likelihood in alone]
    assert [likelihood.log_probability for likelihood in together] == pytest.approx(expected, rel=1e-5)


def test_a_mixture_reads_what_its_members_can_read():
    tokenizer = tiny_tokenizer()
    members = [
        CausalLM(str(length), tiny_causal_lm(max_position_embeddings=length), tokenizer) for length in (96, 48, 64)
    ]
    inner = Mixture(members[:2], Average(), name="inner")
    assert context_length(Mixture([members[2], inner], Average()).config, tokenizer) == 48


@pytest.mark.parametrize(
    ("continuation", "sentence"),
    [
        (Continuation((), (1,)), "Continuation 1: its context must be at least one token, got none."),
        (Continuation((1,), ()), "Continuation 1: its tokens must be at least one token, got none."),
        (
            Continuation((1,), (2,) * 9),
            "Continuation 1: it has 9 tokens, and the model reads 8. Shorten it, or score it in windows.",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(network, continuation, sentence):
    with pytest.raises(ValueError) as raised:
        score_continuations(network, [Continuation((1,), (2,)), continuation], batch_size=1, max_length=8)
    assert str(raised.value) == sentence


def test_damaged_weights_give_no_figure():
    network = tiny_causal_lm()
    torch.nn.init.constant_(network.lm_head.weight, torch.nan)
    with pytest.raises(MemberError) as raised:
        score_continuations(network, [Continuation((1,), (2,))], batch_size=1, max_length=8)
    assert str(raised.value) == (
        "The model gives something that is not a number; its weights or one of its members' are damaged."
    )


def test_a_text_needs_a_token_before_it():
    tokenizer = tiny_tokenizer()
    assert prefix_token(tokenizer) == 0
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"^The tokenizer has no token for the beginning or the end of a text, so a "):
        prefix_token(tokenizer)
