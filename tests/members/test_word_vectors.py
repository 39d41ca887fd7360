import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moesaic.members import ARCHITECTURES, CooccurrenceVectors, TextClassifier, WordEncoder, make_text_classifier
from moesaic.members.word_vectors import _count_neighbours, _positive_information

TEXTS = ["pay the bill", "pay the invoice", "play a song", "play a tune"] * 5
OF_WORDS = [word for word, described in ARCHITECTURES.items() if described.encoder is WordEncoder]


def learn():
    return CooccurrenceVectors.from_texts(TEXTS, width=4)


def test_neighbours_count_less_the_further_they_stand():
    # "a b c" has a-b and b-c at distance 1, a-c at distance 2; "c" in the next text is nobody's neighbour.
    counts = _count_neighbours([["a", "b", "c"], ["c"]], ("a", "b", "c"), window=2)
    assert counts.toarray().tolist() == [[0.0, 1.0, 0.5], [1.0, 0.0, 1.0], [0.5, 1.0, 0.0]]


def test_information_is_the_logarithm_of_how_much_more_often_than_by_chance():
    # Two words that only ever stand beside each other: totals 4 and 4, so each has half of the smoothed counts, and by
    # chance they would be neighbours 4 * 1/2 = 2 times: log(4 / 2) = 0.6931.
    information = _positive_information(_count_neighbours([["a", "b"]] * 4, ("a", "b"), window=1))
    np.testing.assert_allclose(information.toarray(), [[0.0, 0.6931], [0.6931, 0.0]], atol=1e-4)


def test_words_with_the_same_neighbours_are_near():
    known = learn()
    bill, invoice, tune = (known.vectors[known.words.index(word)] for word in ("bill", "invoice", "tune"))
    assert F.cosine_similarity(bill, invoice, dim=0) > 0.9
    assert F.cosine_similarity(bill, tune, dim=0) < 0.1


def test_every_vector_has_a_root_mean_square_of_one():
    torch.testing.assert_close(learn().vectors.square().mean(dim=1), torch.ones(len(learn().words)))


def test_the_same_texts_give_the_same_vectors():
    assert torch.equal(learn().vectors, learn().vectors)


def test_rare_words_have_no_vector():
    known = CooccurrenceVectors.from_texts([*TEXTS, "hum a tune"], width=2, min_count=2)
    assert "hum" not in known.words
    assert "tune" in known.words


def test_more_elements_than_words_are_refused():
    sentence = (
        "Vectors of width 9 need at least as many words, and 8 occur 2 times or more. Give more texts, or a smaller "
        "width or min_count."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        CooccurrenceVectors.from_texts(TEXTS, width=9)


@pytest.mark.parametrize("architecture", OF_WORDS)
def test_given_vectors_are_read_saved_and_not_learned(architecture, tmp_path):
    classifier = make_text_classifier(architecture, ["pay rent"], num_classes=2, seed=0, width=8, vectors=learn())
    network = classifier.eval().network
    assert "words.given" not in dict(network.named_parameters())
    # All learned vectors alike, so that only the given ones tell words apart.
    with torch.no_grad():
        network.words.embedding.weight.fill_(0.1)
        bill, invoice, song = classifier(["bill", "invoice", "song"])
    assert (bill - song).norm() > 2 * (bill - invoice).norm()

    classifier.save(tmp_path)
    assert torch.equal(TextClassifier.load(tmp_path)(TEXTS), classifier(TEXTS))


def test_ngram_architectures_refuse_vectors():
    sentence = (
        "vectors are of words, and ngram_linear reads hashed n-grams. Leave them out, or use one of word_average, "
        "convolutional, recurrent, bidirectional_transformer, causal_transformer."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make_text_classifier("ngram_linear", TEXTS, num_classes=2, seed=0, vectors=learn())
