import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from moesaic.data import Domain, PackedDocuments, assign_balanced, center_groups, find_clusters, regroup
from moesaic.errors import DataError

VOCAB = 30


def draw(topic, num_documents, seed):
    """Documents of twelve tokens, most of them from the ten that are the topic's own."""
    random = np.random.default_rng(seed)
    own = random.integers(10 * topic, 10 * topic + 10, (num_documents, 12))
    return np.where(random.random(own.shape) < 0.8, own, random.integers(0, VOCAB, own.shape)).tolist()


TOPICS = [draw(topic, 20, seed=topic) for topic in range(3)]
DOCUMENTS = [document for topic in TOPICS for document in topic]


def test_named_domains_are_told_apart():
    clusters = center_groups(TOPICS, vocab_size=VOCAB, num_features=5)
    for topic in range(3):
        assert set(clusters.nearest(draw(topic, 10, seed=10 + topic))) == {topic}


def test_topics_are_found_without_names():
    clusters = find_clusters(DOCUMENTS, 3, vocab_size=VOCAB, num_features=5)
    found = [Counter(clusters.nearest(topic).tolist()).most_common(1)[0] for topic in TOPICS]
    assert {cluster for cluster, _ in found} == {0, 1, 2}
    assert all(count >= 19 for _, count in found)


def test_found_clusters_are_of_the_same_size():
    # Forty documents of one topic and ten of another: plain k-means would keep them apart.
    documents = draw(0, 40, seed=0) + draw(1, 10, seed=1)
    clusters = find_clusters(documents, 2, vocab_size=VOCAB, num_features=5)
    distances = clusters.distances(documents)
    assert Counter(assign_balanced(distances).tolist()) == {0: 25, 1: 25}


def test_a_sample_finds_what_all_documents_do():
    clusters = find_clusters(DOCUMENTS, 3, vocab_size=VOCAB, num_features=5, max_documents=30)
    assert len({int(clusters.nearest(topic)[0]) for topic in TOPICS}) == 3


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_the_balanced_assignment_costs_least(num_clusters, share, seed):
    costs = np.random.default_rng(seed).random((share * num_clusters, num_clusters)).astype(np.float32)
    labels = assign_balanced(costs)
    assert set(Counter(labels.tolist()).values()) == {share}
    rows, columns = linear_sum_assignment(np.repeat(costs, share, axis=1))
    assert costs[np.arange(len(costs)), labels].sum() == pytest.approx(costs[rows, columns // share].sum(), abs=1e-5)


def test_an_empty_document_is_as_far_from_every_center_as_its_length():
    clusters = center_groups(TOPICS, vocab_size=VOCAB, num_features=5)
    np.testing.assert_allclose(clusters.distances([[]])[0], (clusters.centers**2).sum(axis=1), rtol=1e-5)


def test_packed_documents_come_apart_again():
    packed = PackedDocuments(torch.arange(6), torch.tensor([0, 2, 5]), torch.tensor([1, 1, 1]))
    assert [document.tolist() for document in packed.documents()] == [[0, 1], [2, 3, 4], [5]]


def test_a_group_without_documents_has_no_center():
    sentence = "Group 1 has no document, so it has no center. Leave it out, or add text."
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        center_groups([TOPICS[0], []], vocab_size=VOCAB)


def test_more_clusters_than_documents_are_refused():
    sentence = "num_clusters must be from 1 to the number of documents (60), got 61."
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        find_clusters(DOCUMENTS, 61, vocab_size=VOCAB)


def test_documents_are_dealt_to_clusters_and_stay_in_their_split():
    def encode(texts):
        return [[int(token) for token in text.split()] for text in texts]

    def write(documents):
        return tuple(" ".join(map(str, document)) for document in documents)

    domain = Domain("all", write(DOCUMENTS), write(draw(0, 3, seed=5)), write(draw(2, 4, seed=6)))
    clusters = center_groups(TOPICS, vocab_size=VOCAB, num_features=5)
    dealt = regroup([domain], clusters, encode)
    assert [cluster.name for cluster in dealt] == ["cluster-1", "cluster-2", "cluster-3"]
    assert [len(cluster.validation) for cluster in dealt] == [3, 0, 0]
    assert [len(cluster.test) for cluster in dealt] == [0, 0, 4]
    assert sorted(text for cluster in dealt for text in cluster.train) == sorted(domain.train)


def test_typical_tokens_are_those_of_the_topic():
    clusters = center_groups(TOPICS, vocab_size=VOCAB, num_features=5)
    assert all(20 <= token < 30 for token in clusters.typical_tokens(2, 5))
