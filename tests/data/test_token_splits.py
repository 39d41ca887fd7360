import re

import pytest
import torch

from moesaic.data import (
    NOT_SCORED,
    Pair,
    PairSampler,
    TokenSplits,
    tokenize_pairs,
    train_pair_tokenizer,
    train_reader_tokenizer,
)
from moesaic.errors import DataError

TEXTS = ["<2de> the cat sat on the mat", "the mattress of the cattle", "die katze auf der matte"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_pair_tokenizer(TEXTS * 3, 330, tags=["<2de>"])


def rows_of(tokenizer):
    return [torch.tensor(ids) for ids in tokenizer(TEXTS)["input_ids"]]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.99])
def test_a_text_stays_the_same_however_it_is_cut(tokenizer, probability):
    splits, rows = TokenSplits.of(tokenizer, probability), rows_of(tokenizer)
    cut = splits.split(rows, seeded(), max_tokens=100)
    assert [tokenizer.decode(row) for row in cut] == [tokenizer.decode(row) for row in rows]
    assert sum(map(len, cut)) > sum(map(len, rows))
    assert cut[0][0] == rows[0][0] and all(row[-1] == tokenizer.eos_token_id for row in cut)  # the tag, and the end


def test_tokens_are_split_as_often_as_asked_for(tokenizer):
    # One merge, th, and then the: with the probability p it becomes th and e, with p * p it becomes t, h and e.
    the = torch.tensor(tokenizer("the", add_special_tokens=False)["input_ids"])
    assert tokenizer.convert_ids_to_tokens(the) == ["the"]
    lengths = [len(row) for row in TokenSplits.of(tokenizer, 0.4).split([the] * 20_000, seeded(), max_tokens=9)]
    shares = torch.bincount(torch.tensor(lengths), minlength=4) / len(lengths)
    torch.testing.assert_close(shares, torch.tensor([0, 0.6, 0.4 * 0.6, 0.4 * 0.4]), atol=0.01, rtol=0)


def test_nothing_is_split_with_probability_zero_and_a_seed_repeats(tokenizer):
    rows = rows_of(tokenizer)
    for seed, probability in ((0, 0.0), (1, 0.5)):
        splits = TokenSplits.of(tokenizer, probability)
        cut, again = (splits.split(rows, seeded(seed), max_tokens=100) for _ in range(2))
        assert all(map(torch.equal, cut, again))
        assert all(map(torch.equal, cut, rows)) == (probability == 0)


def test_a_row_that_would_grow_too_long_stays_as_it_is(tokenizer):
    rows = rows_of(tokenizer)
    splits, longest = TokenSplits.of(tokenizer, 0.99), max(map(len, rows))
    grown, kept = (splits.split(rows, seeded(), max_tokens=limit) for limit in (100, longest))
    for row, free, limited in zip(rows, grown, kept, strict=True):
        assert torch.equal(limited, row if len(free) > longest else free)
    assert any(len(free) > longest for free in grown)


def test_a_batch_is_cut_anew_each_time_and_is_the_same_for_the_same_step(tokenizer):
    texts = [Pair(text, (text,)) for text in TEXTS]
    pairs, _ = tokenize_pairs(texts, tokenizer, max_source_tokens=40, max_target_tokens=40)
    whole = PairSampler([pairs], batch_size=3, pad_token_id=0, seed=0)
    sampler = PairSampler([pairs], 3, 0, 0, TokenSplits.of(tokenizer, 0.5))
    batches = [sampler.batch(step) for step in range(3)]
    assert len({tuple(batch.source_ids.flatten().tolist()) for batch in batches}) == 3
    assert torch.equal(sampler.batch(1).labels, batches[1].labels)
    for step, batch in enumerate(batches):
        for row, expected in zip(batch.labels, whole.batch(step).labels, strict=True):
            assert tokenizer.decode(row[row != NOT_SCORED]) == tokenizer.decode(expected[expected != NOT_SCORED])


def test_a_tokenizer_without_merges_is_refused():
    message = (
        "Words are cut at random by the merges of a BPE tokenizer; this one is of the type WordPiece. Set "
        "split_probability to 0."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        TokenSplits.of(train_reader_tokenizer(TEXTS, 60), 0.1)


def test_a_probability_of_one_is_refused(tokenizer):
    message = "The probability of a split must be from 0 to below 1, got 1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TokenSplits.of(tokenizer, 1.0)
