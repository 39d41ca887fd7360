import pytest
import torch

from moesaic.combiners import Average, Posterior, Routed, Selective
from moesaic.data import NOT_SCORED
from moesaic.training import HeldOut, calibrate_selective, combined_nats


@pytest.fixture(scope="module")
def held_out():
    """Two domains of text, on which three members know different things."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for domain, num_rows in (("a", 5), ("b", 3)):
        labels = torch.randint(0, 9, (num_rows, 20), generator=generator)
        scores = 2 * torch.randn(3, num_rows, 20, 9, generator=generator)
        # Where the first member is unsure it knows nothing; where it is sure it is right more often than not.
        is_known = torch.rand(num_rows, 20, 1, generator=generator) < 0.6
        answer = torch.nn.functional.one_hot(labels, 9)
        scores[0] = torch.where(is_known, scores[0] + 6 * answer, 0.3 * scores[0])
        scores[1:] += 2 * answer
        labels[:, -1] = NOT_SCORED
        parts[domain] = HeldOut(scores, torch.zeros_like(labels), labels)
    return parts


def nats(combiner, held_out):
    """Of all tokens alike."""
    counts = torch.tensor([float((part.labels != NOT_SCORED).sum()) for part in held_out.values()])
    return float(torch.stack([combined_nats(combiner, part) for part in held_out.values()]) @ counts / counts.sum())


def share_combined(combiner, held_out):
    used = [
        combiner(part.member_logits, part.input_ids, torch.ones_like(part.input_ids, dtype=torch.bool)).routing.num_used
        for part in held_out.values()
    ]
    scored = [part.labels != NOT_SCORED for part in held_out.values()]
    return float(torch.cat([(n > 1)[of] for n, of in zip(used, scored, strict=True)]).float().mean())


@pytest.mark.parametrize("measure", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("max_share", [0.1, 0.5])
def test_what_is_promised_of_the_held_out_text_is_what_the_combiner_does(held_out, measure, max_share):
    found = calibrate_selective(Average(), held_out, measure=measure, max_share=max_share, batch_size=2)
    combiner = Selective(Average(), found.threshold, measure)
    assert 0 < found.deferred <= max_share
    assert share_combined(combiner, held_out) == pytest.approx(found.deferred)
    assert nats(combiner, held_out) == pytest.approx(-found.quality, rel=1e-5)
    assert nats(Selective(Average(), float("-inf")), held_out) == pytest.approx(-found.small_quality, rel=1e-5)
    assert nats(Average(), held_out) == pytest.approx(-found.large_quality, rel=1e-5)
    assert found.quality > found.small_quality


def test_what_combining_everywhere_would_give_is_kept_at_fewer_tokens(held_out):
    found = calibrate_selective(Average(), held_out, tolerance=0.01)
    assert found.quality >= found.large_quality - 0.01
    assert found.deferred < 0.6


def test_the_main_member_may_be_the_one_that_a_trained_router_ranks_first(held_out):
    router = Routed(seed=1)
    router.attach(3, 9)
    found = calibrate_selective(router, held_out, main=None, max_share=0.3)
    assert share_combined(Selective(router, found.threshold, main=None), held_out) == pytest.approx(found.deferred)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {},
            "Give either max_share, the share of tokens at which members may be combined, or tolerance, the nats per "
            "token that may be lost.",
        ),
        ({"max_share": 1.5}, "max_share must be from 0 to 1, got 1.5."),
        ({"tolerance": -1.0}, "tolerance must be at least 0, got -1."),
        (
            {"combiner": Posterior(), "max_share": 0.5},
            "Selective cannot combine by 'posterior', which remembers what every member said of every token, so that "
            "none could be left out. Use one that does not, such as 'average', 'weighted', 'entropy', 'routed' or "
            "'clustered'.",
        ),
        (
            {"held_out": {}, "max_share": 0.5},
            "A threshold is found on held-out text, and there is none. Set some aside.",
        ),
    ],
)
def test_bad_arguments_are_refused(held_out, arguments, sentence):
    with pytest.raises(ValueError) as error:
        calibrate_selective(**{"combiner": Average(), "held_out": held_out} | arguments)
    assert str(error.value) == sentence
