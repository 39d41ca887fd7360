import re

import pytest
import torch

from moesaic.members import ARCHITECTURES, NgramEncoder, TextClassifier, WordEncoder, make_text_classifier
from moesaic.members.text_networks import WordVectors, drop_channels

TEXTS = ["pay the bill", "play a song please", "what is my balance ?", "hi"]


def make(architecture, **arguments):
    return make_text_classifier(architecture, TEXTS, num_classes=3, seed=0, **arguments).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_reads_raw_and_prepared_texts_alike(architecture):
    classifier = make(architecture)
    with torch.no_grad():
        scores = classifier(TEXTS)
        assert scores.shape == (4, 3)
        assert torch.equal(classifier(*classifier.prepare(TEXTS)), scores)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_stands_beside_a_text_does_not_matter(architecture):
    classifier = make(architecture)
    with torch.no_grad():
        torch.testing.assert_close(classifier(["hi"])[0], classifier(TEXTS)[3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_classifier_gives_the_same_bits(architecture, tmp_path):
    classifier = make(architecture)
    classifier.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier.json", "model.safetensors"]
    assert torch.equal(TextClassifier.load(tmp_path)(TEXTS), classifier(TEXTS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_without_a_known_word_are_scored_too(architecture):
    with torch.no_grad():
        assert make(architecture)(["", "zzz", "¿¡"]).isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_seed_makes_the_weights(architecture):
    first, again = make(architecture), make(architecture)
    other = make_text_classifier(architecture, TEXTS, num_classes=3, seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first(TEXTS), other.eval()(TEXTS))


def test_only_the_causal_transformer_reads_from_left_to_right():
    # Swapping the first two words changes what stands before the last; a bag of words sees no difference.
    texts = ["pay the bill", "the pay bill"]
    order_matters = {}
    for architecture in ("word_average", "bidirectional_transformer", "causal_transformer"):
        with torch.no_grad():
            one, other = make(architecture)(texts)
        order_matters[architecture] = not torch.allclose(one, other, atol=1e-5)
    assert order_matters == {
        "word_average": False,
        "bidirectional_transformer": True,
        "causal_transformer": True,
    }


def test_an_architecture_that_does_not_exist_is_refused():
    sentence = (
        "architecture must be one of ngram_linear, ngram_perceptron, word_average, convolutional, recurrent, "
        "bidirectional_transformer, causal_transformer, got 'bert'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make("bert")


def test_words_are_numbered_and_split_into_hashed_pieces():
    encoder = WordEncoder(("bill", "pay"), num_buckets=10, shortest=4, longest=5, max_words=3, max_pieces=4)
    (pieces,) = encoder(["Pay bills"])
    # "pay" is word 3: 0 is padding, 1 is unknown; <pay, pay> and <pay> hash to 4 to 13; "bills" is unknown
    assert pieces.shape == (1, 3, 4)
    assert pieces[0, 0, 0] == 3
    assert ((pieces[0, 0, 1:4] >= 4) & (pieces[0, 0, 1:4] < 14)).all()
    assert pieces[0, 1, 0] == 1
    assert pieces[0, 2].tolist() == [0, 0, 0, 0]
    assert encoder.num_embeddings == 14


def test_ngram_weights_are_those_of_tf_idf():
    # Words alone: of 2 texts "pay" is in 2 and "rent" in 1, so their rarities are
    # log(3 / 3) + 1 = 1 and log(3 / 2) + 1 = 1.4055; scaled to length 1: 0.5797 and 0.8148.
    words_alone = {"word_ngrams": 1, "shortest": 9, "longest": 8, "pair_prefix": 0}
    encoder = NgramEncoder.from_texts(["pay rent", "pay"], num_buckets=1000, **words_alone)
    buckets, weights = encoder(["pay rent"])
    assert sorted(weights[0, :2].tolist()) == pytest.approx([0.5797, 0.8148], abs=1e-4)
    assert buckets[0, 2:].sum() == 0


def test_each_kind_of_ngram_weighs_the_same():
    # Two words, more n-grams of characters and one pair: each kind has length 1 / sqrt(3), hence the pair that weight.
    encoder = NgramEncoder.from_texts(["pay rent"], num_buckets=100_000, word_ngrams=1)
    _, weights = encoder(["pay rent"])
    assert weights.max().item() == pytest.approx(3**-0.5, abs=1e-5)
    assert (weights > 0).sum() == 2 + (4 + 3 + 2) + (5 + 4 + 3) + 1


def test_a_pair_of_words_is_known_in_any_order_and_form():
    pairs_alone = {"word_ngrams": 0, "shortest": 9, "longest": 8, "pair_prefix": 4}
    encoder = NgramEncoder.from_texts(["changed my password"], num_buckets=1000, **pairs_alone)
    buckets, _ = encoder(["passwords I want to change"])
    assert (buckets != 0).sum() == 1


def test_a_word_vector_is_the_mean_of_its_pieces():
    words = WordVectors(num_embeddings=4, width=2, word_dropout=0.0, dropout=0.0)
    with torch.no_grad():
        words.embedding.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 5.0], [9.0, 9.0]]))
    vectors, mask = words(torch.tensor([[[1, 2], [3, 0], [0, 0]], [[2, 0], [0, 0], [0, 0]]]))
    assert vectors.tolist() == [[[2.0, 3.0], [9.0, 9.0]], [[3.0, 5.0], [0.0, 0.0]]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_channels_are_dropped_over_a_whole_text():
    torch.manual_seed(0)
    dropped = drop_channels(torch.ones(4, 5, 8), 0.5, training=True)
    assert torch.equal(dropped, dropped[:, :1].expand(4, 5, 8))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(drop_channels(torch.ones(4, 5, 8), 0.5, training=False), torch.ones(4, 5, 8))
