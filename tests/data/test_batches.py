import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moesaic.data import (
    NOT_SCORED,
    BatchSampler,
    Domain,
    PackedDocuments,
    evaluation_blocks,
    pack_documents,
    tokenize_domain,
)
from moesaic.errors import DataError
from moesaic.testing import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
DOCUMENTS = ["the cat", "die Katze saß", "def cat(mat): return mat"]


def test_documents_are_packed_with_the_end_of_text_between_them():
    packed = pack_documents(DOCUMENTS, TOKENIZER)
    pieces = TOKENIZER.decode(packed.tokens.tolist()).split("<eos>")
    assert pieces == [*DOCUMENTS, ""]
    assert packed.document_bytes.tolist() == [7, 14, 24]  # ß is two bytes
    assert packed.tokens[packed.document_starts[1:] - 1].tolist() == [0, 0]


def test_packed_documents_are_saved_and_loaded(tmp_path):
    packed = pack_documents(DOCUMENTS, TOKENIZER)
    packed.save(tmp_path / "tokens.safetensors")
    loaded = PackedDocuments.load(tmp_path / "tokens.safetensors")
    assert torch.equal(loaded.tokens, packed.tokens)
    assert loaded.num_documents == 3


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=6), st.integers(2, 9))
@settings(max_examples=50)
def test_every_token_is_scored_exactly_once(documents, sequence_length):
    packed = pack_documents(documents, TOKENIZER)
    blocks = evaluation_blocks(packed, sequence_length=sequence_length)
    scored = blocks.labels[blocks.labels != NOT_SCORED]
    assert torch.equal(scored, packed.tokens.long())
    assert blocks.num_tokens == len(packed.tokens)
    # What the model has read when it predicts a label is the token before it.
    assert torch.equal(blocks.input_ids.flatten()[1 : len(scored)], packed.tokens[:-1].long())
    assert blocks.input_ids[0, 0] == TOKENIZER.eos_token_id
    counts = torch.bincount(blocks.document_index[blocks.labels != NOT_SCORED], minlength=len(documents))
    ends = torch.cat([packed.document_starts[1:], torch.tensor([len(packed.tokens)])])
    assert torch.equal(counts, ends - packed.document_starts)


def test_whole_documents_are_taken_while_they_fit():
    packed = pack_documents(DOCUMENTS, TOKENIZER)
    two = int(packed.document_starts[2])
    assert evaluation_blocks(packed, sequence_length=4, max_tokens=two).num_tokens == two
    assert evaluation_blocks(packed, sequence_length=4, max_tokens=two + 1).num_tokens == two
    assert evaluation_blocks(packed, sequence_length=4, max_tokens=1).num_tokens == int(packed.document_starts[1])


def sampler(seed=0, **arguments):
    domains = [
        PackedDocuments(torch.arange(start, start + 50, dtype=torch.int32), torch.tensor([0]), torch.tensor([50]))
        for start in (0, 100)
    ]
    return BatchSampler(domains, batch_size=64, sequence_length=8, seed=seed, **arguments)


def test_a_batch_is_a_function_of_seed_and_step():
    first, again = sampler().batch(3), sampler().batch(3)
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.input_ids, sampler().batch(4).input_ids)
    assert not torch.equal(first.input_ids, sampler(seed=1).batch(3).input_ids)


def test_labels_are_the_tokens_that_follow():
    batch = sampler().batch(0)
    assert torch.equal(batch.labels, batch.input_ids + 1)  # each domain counts upwards


def test_a_row_knows_its_domain_and_weights_choose_it():
    batch = sampler().batch(0)
    assert torch.equal(batch.input_ids[:, 0] // 100, batch.domain_index)
    assert set(batch.domain_index.tolist()) == {0, 1}
    assert set(sampler(weights=(0.0, 1.0)).batch(0).domain_index.tolist()) == {1}


def test_a_domain_shorter_than_a_sequence_is_refused():
    domain = Domain("law", ("the cat",), (), ("the mat",))
    count = len(pack_documents(domain.train, TOKENIZER).tokens)
    with pytest.raises(DataError) as error:
        tokenize_domain(domain, TOKENIZER, sequence_length=64)
    assert str(error.value) == (
        f"Domain 'law' has {count} tokens to train on, fewer than one sequence of 64 and the token after it. "
        "Add text, or lower data.sequence_length."
    )


def test_a_domain_without_a_test_document_is_refused():
    with pytest.raises(DataError) as error:
        tokenize_domain(Domain("law", ("the cat sat on the mat",) * 3, (), ()), TOKENIZER, sequence_length=4)
    assert str(error.value) == (
        "Domain 'law' has no document to test on: its 3 documents all fell to training. "
        "Add documents, or raise data.test_fraction."
    )
