"""Which rows a member is trained on, and which it is not."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moesaic.data import (
    PackedDocuments,
    bootstrap,
    check_unseen,
    document_fingerprints,
    fingerprints,
    folds,
    out_of_bag,
    take_documents,
)
from moesaic.errors import LeakageError

PACKED = PackedDocuments(torch.tensor([1, 2, 0, 3, 0, 4, 5, 6, 0]), torch.tensor([0, 3, 5]), torch.tensor([20, 10, 30]))


def test_a_bootstrap_leaves_about_a_third_of_the_rows_out():
    # A row is left out with probability (1 - 1/n)^n, which tends to 1/e = 0.368.
    left = len(out_of_bag(10_000, bootstrap(10_000, seed=3))) / 10_000
    assert left == pytest.approx(0.368, abs=0.01)


def test_the_seed_makes_the_draw():
    assert (bootstrap(50, seed=1) == bootstrap(50, seed=1)).all()
    assert (bootstrap(50, seed=1) != bootstrap(50, seed=2)).any()


def test_without_replacement_no_row_is_drawn_twice():
    drawn = bootstrap(100, seed=0, max_samples=0.5, replace=False)
    assert len(set(drawn.tolist())) == 50


@given(st.integers(2, 40), st.integers(2, 5), st.integers(0, 5))
def test_every_row_is_in_exactly_one_fold_of_nearly_the_same_size(num_rows, num_folds, seed):
    if num_rows < num_folds:
        return
    dealt = folds(num_rows, num_folds, seed=seed)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(num_rows))
    sizes = [len(fold) for fold in dealt]
    assert max(sizes) - min(sizes) <= 1


def test_every_fold_has_every_label():
    labels = ["rare"] * 3 + ["common"] * 30
    assert all({labels[row] for row in fold} == {"rare", "common"} for fold in folds(33, 3, seed=0, labels=labels))


def test_documents_are_taken_whole_and_as_often_as_drawn():
    taken = take_documents(PACKED, np.array([0, 2, 2]))
    assert taken.tokens.tolist() == [1, 2, 0, 4, 5, 6, 0, 4, 5, 6, 0]
    assert taken.document_starts.tolist() == [0, 3, 7]
    assert taken.document_bytes.tolist() == [20, 30, 30]


def test_a_document_is_known_again_wherever_it_stands():
    assert document_fingerprints(take_documents(PACKED, np.array([2]))) < document_fingerprints(PACKED)
    assert len(document_fingerprints(PACKED)) == 3


def test_a_stacker_on_rows_that_members_have_seen_is_refused():
    rows = fingerprints(str(number).encode() for number in range(10))
    some = fingerprints(str(number).encode() for number in range(7, 20))
    check_unseen({"news": rows - some, "law": frozenset()}, some)
    sentence = (
        "A stacker must be fitted on rows that no member was trained on; of these 13, law has seen 3. Fit it on other "
        "rows, or on out-of-fold predictions."
    )
    with pytest.raises(LeakageError, match=f"^{re.escape(sentence)}$"):
        check_unseen({"news": frozenset(), "law": rows}, some)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: bootstrap(5, seed=0, max_samples=0),
            "max_samples must be above 0, and at most 1 where rows are drawn without replacement, got 0.",
        ),
        (
            lambda: bootstrap(5, seed=0, max_samples=2, replace=False),
            "max_samples must be above 0, and at most 1 where rows are drawn without replacement, got 2.",
        ),
        (lambda: folds(5, 1, seed=0), "num_folds must be 2 or more, got 1."),
        (
            lambda: folds(4, 2, seed=0, labels=["a", "b", "a", "a"]),
            "2 folds need at least 2 rows of 'b', got 1: some fold would have none. Use fewer folds, or more rows.",
        ),
        (
            lambda: check_unseen({}, frozenset()),
            "A stacker is fitted on rows that no member was trained on, and there are none. Set some aside (raise "
            "data.validation_fraction), or predict out of fold.",
        ),
    ],
)
def test_bad_arguments_are_refused(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        call()
