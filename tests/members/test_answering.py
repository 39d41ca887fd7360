import re

import pytest

from moesaic.combiners import Average
from moesaic.data import train_pair_tokenizer
from moesaic.members import Decoding, Seq2SeqLM, write_targets
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.testing import tiny_causal_lm, tiny_seq2seq_lm

SOURCES = ["the cat", "die Katze saß auf der Matte", "a", "the cat sat on the mat"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_pair_tokenizer(SOURCES, 300)


def write(network, tokenizer, sources=SOURCES, max_source_tokens=64, **decoding):
    decoding = Decoding(**{"max_new_tokens": 6} | decoding)
    return write_targets(network, tokenizer, sources, decoding, max_source_tokens=max_source_tokens)


@pytest.mark.parametrize("make", [tiny_seq2seq_lm, lambda: tiny_causal_lm(eos_token_id=1)])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_is_answered_as_each_source_alone(make, num_beams, tokenizer):
    network = make()
    together = write(network, tokenizer, num_beams=num_beams)
    assert together == [write(network, tokenizer, [source], num_beams=num_beams)[0] for source in SOURCES]
    assert together == write(network, tokenizer, num_beams=num_beams, batch_size=3)
    assert len(set(together)) > 1


def test_chance_is_repeated_by_its_seed(tokenizer):
    network = tiny_seq2seq_lm()
    first = write(network, tokenizer, temperature=2.0, seed=1)
    assert first == write(network, tokenizer, temperature=2.0, seed=1)
    assert first != write(network, tokenizer, temperature=2.0, seed=2)


def test_a_decoder_writes_no_more_than_it_has_positions_for(tokenizer):
    network = tiny_seq2seq_lm(max_position_embeddings=8, eos_token_id=299)
    members = [Seq2SeqLM(name, tiny_seq2seq_lm(max_position_embeddings=8, seed=seed)) for seed, name in enumerate("ab")]
    for model in (network, Seq2SeqMixture(members, Average()).eval()):
        assert write(model, tokenizer, max_new_tokens=100) == write(model, tokenizer, max_new_tokens=8)


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}])
def test_chance_among_one_token_takes_the_likeliest(cut, tokenizer):
    network = tiny_seq2seq_lm()
    assert write(network, tokenizer, temperature=2.0, **cut) == write(network, tokenizer)


def test_of_a_long_source_the_beginning_is_read(tokenizer):
    network, long = tiny_seq2seq_lm(), "the cat sat on the mat and the mat sat on the cat"
    ids = tokenizer(long)["input_ids"]
    beginning = tokenizer.decode(ids[:7])
    assert write(network, tokenizer, [long], max_source_tokens=8) == write(network, tokenizer, [beginning])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1, got 0."),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1."),
        (
            {"num_beams": 4, "temperature": 0.5},
            "4 beams search for the likeliest target, and temperature 0.5 draws by chance. Use num_beams=1, or "
            "temperature 0.",
        ),
        ({"top_k": -1, "temperature": 1.0}, "top_k must be at least 0, got -1."),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p must be above 0 and at most 1, got 0."),
        (
            {"top_p": 0.9},
            "top_k and top_p say what is drawn from, and temperature 0 draws nothing. Set a temperature above 0, or "
            "leave them out.",
        ),
    ],
)
def test_what_decoding_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Decoding(**arguments)
