import pytest
import torch

from moesaic.combiners import Average, BySource
from moesaic.combiners.choices import Hard
from moesaic.data import train_pair_tokenizer
from moesaic.members import CausalLM, Seq2SeqLM, score_targets
from moesaic.mixture import Mixture
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.testing import tiny_causal_lm, tiny_seq2seq_lm

SOURCES = ["who sat on the mat ?", "wer ?"]
TARGETS = [["the cat", "ja"], ["die Katze", "a", "the mat sat"]]
KINDS = {"causal": (tiny_causal_lm, CausalLM, Mixture), "seq2seq": (tiny_seq2seq_lm, Seq2SeqLM, Seq2SeqMixture)}


@pytest.fixture(scope="module")
def tokenizer():
    return train_pair_tokenizer([*SOURCES, "the cat", "die Katze", "ja"], 300)


def score(network, tokenizer, **options):
    return score_targets(network, tokenizer, SOURCES, TARGETS, max_source_tokens=32, **options)


def by_hand(network, tokenizer, source, target):
    """Summed over the target's tokens in one forward pass of one row."""
    source_ids, target_ids = (torch.tensor([tokenizer(text)["input_ids"]]) for text in (source, target))
    if network.config.is_encoder_decoder:
        logits = network(input_ids=source_ids, labels=target_ids).logits
    else:
        joint = torch.cat([source_ids, target_ids], dim=1)
        logits = network(input_ids=joint).logits[:, source_ids.shape[1] - 1 : -1]
    scores = logits.float().log_softmax(-1).gather(2, target_ids.unsqueeze(-1))
    return scores.sum().item(), target_ids.shape[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalization", ["none", "tokens", "bytes"])
def test_the_score_is_the_sum_over_the_tokens_of_the_target_divided_as_named(kind, normalization, tokenizer):
    network = KINDS[kind][0]()
    scores = score(network, tokenizer, normalization=normalization, batch_size=3)
    assert scores.shape == (2, 3)
    assert scores[0, 2] == -torch.inf
    for row, (source, given) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        for column, target in enumerate(given):
            total, count = by_hand(network, tokenizer, source, target)
            divisor = {"none": 1, "tokens": count, "bytes": len(target)}[normalization]
            assert scores[row, column].item() == pytest.approx(total / divisor, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_by_source_gives_each_source_the_scores_of_its_member(kind, tokenizer):
    make, member, mixture = KINDS[kind]
    networks = [make(seed=seed) for seed in (1, 2)]
    members = [member(f"seed {seed}", network, tokenizer) for seed, network in enumerate(networks)]
    routed = mixture(members, BySource(choice=Hard(), router_width=4, seed=3)).eval()
    alone = torch.stack([score(network, tokenizer) for network in networks])
    torch.testing.assert_close(score(mixture(members[:1], Average()).eval(), tokenizer), alone[0])
    together = score(routed, tokenizer, batch_size=2)
    for row in range(2):
        assert any(torch.allclose(together[row], of_member[row], rtol=1e-4, atol=1e-4) for of_member in alone)


def test_what_cannot_be_scored_is_refused(tokenizer):
    with pytest.raises(
        ValueError, match=r"^Prompt 0 has the choices \[\]; give it at least one, and none that is empty\.$"
    ):
        score_targets(tiny_causal_lm(), tokenizer, ["who?"], [[]], max_source_tokens=8)
