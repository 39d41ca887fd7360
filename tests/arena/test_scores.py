import math

import numpy as np
import pytest

from moesaic.arena import Bootstrap, DocumentScores


def documents(*per_document):
    nats, tokens, num_bytes = zip(*per_document, strict=True)
    return DocumentScores(np.array(nats, dtype=float), np.array(tokens), np.array(num_bytes))


NEWS = documents((10.0, 5, 20), (2.0, 1, 4))
LAW = documents((3.0, 3, 6))


def test_figures_are_ratios_of_sums():
    assert NEWS.nats_per_token == pytest.approx(12 / 6)
    assert NEWS.bits_per_byte == pytest.approx(12 / math.log(2) / 24)


def test_domains_count_the_same():
    interval = Bootstrap(100).interval({"news": NEWS, "law": LAW}, "nats_per_token", ["news", "law"])
    assert interval.value == pytest.approx((2 + 1) / 2)
    # Every document of either domain has the same loss per token, so resampling changes nothing.
    assert interval.low == pytest.approx(1.5) and interval.high == pytest.approx(1.5)


def test_an_interval_of_many_documents_covers_what_the_normal_distribution_says():
    generator = np.random.default_rng(0)
    nats = generator.normal(3, 1, 400)
    scores = {"x": DocumentScores(nats, np.ones(400, dtype=int), np.ones(400, dtype=int))}
    interval = Bootstrap(4000).interval(scores, "nats_per_token", ["x"])
    # 1.96 standard errors of 1/20 each way
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * nats.std() / 20, rel=0.05)


def test_differences_are_paired():
    generator = np.random.default_rng(0)
    nats = generator.normal(3, 1, 100)
    ones = np.ones(100, dtype=int)
    first, second = {"x": DocumentScores(nats + 0.1, ones, ones)}, {"x": DocumentScores(nats, ones, ones)}
    difference = Bootstrap(200).difference(first, second, "nats_per_token", ["x"])
    assert difference.low == pytest.approx(0.1) and difference.high == pytest.approx(0.1)
    assert difference.excludes_zero


def test_the_same_seed_gives_the_same_interval():
    scores = {"news": NEWS}
    assert Bootstrap(50, 3).interval(scores, "nats_per_token", ["news"]) == Bootstrap(50, 3).interval(
        scores, "nats_per_token", ["news"]
    )
