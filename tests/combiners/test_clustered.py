import math
import re

import numpy as np
import pytest
import torch

from moesaic.combiners import Clustered
from moesaic.data import Clusters

CLUSTERS = Clusters(
    np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32),  # tokens 0 and 1 belong to one cluster each
    np.array([[1, 0], [0, 1]], dtype=np.float32),
)
MEMBERS = torch.tensor([[[3.0, 0.0, 0.0]], [[0.0, 3.0, 0.0]]])


def combine(combiner, tokens):
    input_ids = torch.tensor([tokens])
    logits = MEMBERS.unsqueeze(1).expand(2, 1, len(tokens), 3)
    return combiner(logits, input_ids, torch.ones_like(input_ids, dtype=torch.bool))


def test_weights_follow_the_distance_of_the_prefix():
    weights = combine(Clustered.of(CLUSTERS, temperature=0.5), [0, 1, 1]).routing.weights[0].detach()
    # Distances to the centers: 0 and 2; then the same; then the place is (1, 2) / sqrt(5).
    assert weights[0, 0].item() == pytest.approx(1 / (1 + math.exp(-2 / 0.5)))
    assert weights[1].tolist() == pytest.approx([0.5, 0.5])
    nearer, farther = (2 - 2 * share / math.sqrt(5) for share in (2, 1))
    assert weights[2, 1].item() == pytest.approx(1 / (1 + math.exp((nearer - farther) / 0.5)), abs=1e-6)


def test_top_1_asks_the_nearest_member_alone():
    weights = combine(Clustered.of(CLUSTERS, top_k=1), [0, 1, 1]).routing.weights[0].detach()
    assert weights[0].tolist() == [1.0, 0.0]
    assert weights[2].tolist() == [0.0, 1.0]


def test_before_there_are_clusters_all_members_count_the_same():
    combiner = Clustered(num_features=2)
    combiner.attach(2, 3)
    assert combine(combiner, [0, 1]).routing.weights[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"^temperature must be above 0, got 0\.$"):
        Clustered(temperature=0)


def test_more_members_than_there_are_cannot_be_asked():
    sentence = "top_k must be from 1 to num_members (2), got 3."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Clustered.of(CLUSTERS, top_k=3)
