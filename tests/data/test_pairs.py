import json
import re

import pytest
import torch

from moesaic.data import (
    NOT_SCORED,
    HubDataset,
    JsonLines,
    Pair,
    PairSampler,
    Parquet,
    TokenizedPairs,
    load_pair_domain,
    pad,
    tokenize_pairs,
    train_pair_tokenizer,
)
from moesaic.data.examples import draw_rows
from moesaic.errors import DataError

PAIRS = [Pair(f"{'a ' * length}b", (f"{'c ' * length}d",)) for length in range(1, 13)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_pair_tokenizer((text for pair in PAIRS for text in (pair.source, pair.target)), 270, tags=["<2x>"])


def tokenized(tokenizer, pairs=PAIRS, max_tokens=64):
    return tokenize_pairs(pairs, tokenizer, max_source_tokens=max_tokens, max_target_tokens=max_tokens)


def read(row, place):
    return Pair(row["source"], (row["target"],))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonLines(path)


def test_a_pair_is_kept_once_and_never_stands_in_two_splits(tmp_path):
    rows = [{"source": str(number), "target": "x"} for number in range(200)]
    test = write(tmp_path / "test.jsonl", rows[:20])
    domain = load_pair_domain("numbers", write(tmp_path / "all.jsonl", rows + rows), read, test=test)
    splits = [domain.train, domain.validation, domain.test]
    assert sum(len(split) for split in splits) == len({pair for split in splits for pair in split}) == 200
    assert domain.test == tuple(Pair(row["source"], ("x",)) for row in rows[:20])
    assert domain.train and domain.validation


def test_pairs_of_one_source_and_different_targets_are_different(tmp_path):
    rows = [{"source": "the same", "target": str(number)} for number in range(30)]
    domain = load_pair_domain("numbers", write(tmp_path / "all.jsonl", rows), read)
    assert len(domain.train) + len(domain.validation) + len(domain.test) == 30


def test_rows_are_read_whole_from_every_kind_of_table(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [{"source": "a", "number": 1}, {"source": "b", "number": 2}]
    lines = write(tmp_path / "rows.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "hub" / "train.parquet")
    sources = [lines, Parquet(tmp_path / "rows.parquet"), HubDataset(str(tmp_path / "hub"))]
    for source in sources:
        assert [row for _, row in source.rows()] == rows
    assert [place for place, _ in lines.rows()] == [f"{lines.path}, line 1", f"{lines.path}, line 2"]


def test_tokens_are_saved_and_loaded(tokenizer, tmp_path):
    pairs, cut = tokenized(tokenizer)
    pairs.save(tmp_path / "pairs.safetensors")
    loaded = type(pairs).load(tmp_path / "pairs.safetensors")
    assert str(cut) == "nothing was cut"
    for text, ids in zip(PAIRS, loaded.sources(), strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.source
        assert ids[-1] == tokenizer.eos_token_id


def test_what_is_too_long_keeps_its_beginning_and_its_end_and_is_counted(tokenizer):
    long = Pair("a b c d e f g h", ("h g",))
    full, _ = tokenized(tokenizer, [long])
    pairs, cut = tokenized(tokenizer, [long, PAIRS[0]], max_tokens=6)
    [source, _] = pairs.sources()
    assert source.tolist() == [*full.sources()[0][:5].tolist(), tokenizer.eos_token_id]
    lost = len(full.sources()[0]) - 6
    assert str(cut) == f"1 sources and 0 targets were cut, by {lost} tokens"


def test_every_pair_comes_once_in_an_epoch_and_lengths_lie_together(tokenizer):
    pairs, _ = tokenized(tokenizer)
    sampler = PairSampler([pairs, pairs], batch_size=4, pad_token_id=0, seed=0)
    batches = [sampler.batch(step) for step in range(6)]
    seen = sorted(
        (int(domain), int(mask.sum()))
        for batch in batches
        for domain, mask in zip(batch.domain_index, batch.source_mask, strict=True)
    )
    assert seen == sorted((domain, int(length)) for domain in (0, 1) for length in pairs.source_lengths)
    for batch in batches:
        assert (batch.source_ids[batch.source_mask == 0] == 0).all()
        assert ((batch.labels != NOT_SCORED).sum(1) > 0).all()
        assert batch.source_mask.sum(1).max() - batch.source_mask.sum(1).min() <= 4
    again = PairSampler([pairs, pairs], batch_size=4, pad_token_id=0, seed=0).batch(3)
    assert torch.equal(again.source_ids, batches[3].source_ids)


def test_half_the_padding_of_sorting_by_the_sum_of_both_lengths():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (2, 4096), generator=generator)
    flat = [torch.ones(int(part.sum()), dtype=torch.int32) for part in lengths]
    pairs = TokenizedPairs(flat[0], lengths[0], flat[1], lengths[1])
    sampler = PairSampler([pairs], batch_size=32, pad_token_id=0, seed=0)

    def padding(batches):
        places = sum(32 * int(lengths[part, rows].max()) for rows in batches for part in (0, 1))
        return 1 - int(lengths.sum()) / places

    batches = [draw_rows(sampler, step) for step in range(128)]
    by_sum = lengths.sum(dim=0).argsort().view(128, 32)
    assert torch.cat(batches).sort().values.equal(torch.arange(4096))
    assert padding(batches) < padding(by_sum) / 2


def test_parts_of_a_batch_are_its_rows(tokenizer):
    batch = PairSampler([tokenized(tokenizer)[0]], batch_size=4, pad_token_id=0, seed=0).batch(0)
    part = batch.rows(1, 3)
    assert torch.equal(part.labels, batch.labels[1:3]) and torch.equal(part.domain_index, batch.domain_index[1:3])


def test_more_pairs_in_a_batch_than_there_are_is_refused(tokenizer):
    message = (
        "A batch has 16 examples, and there are only 12 to draw from. Lower batch_size, or give more examples (raise "
        "max_samples, if they were resampled)."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        PairSampler([tokenized(tokenizer)[0]], batch_size=16, pad_token_id=0, seed=0)


def test_rows_are_padded_on_the_side_that_is_asked_for():
    rows = [torch.tensor([5, 6]), torch.tensor([7])]
    assert pad(rows, 0)[0].tolist() == [[5, 6], [7, 0]]
    padded, mask = pad(rows, 9, left=True)
    assert padded.tolist() == [[5, 6], [9, 7]] and mask.tolist() == [[1, 1], [0, 1]]
