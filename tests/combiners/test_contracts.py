import pytest
import torch

from moesaic.combiners import (
    CHOICES,
    COMBINERS,
    Additive,
    Average,
    Clustered,
    DomainWeighted,
    Entropy,
    Hard,
    NoisyTopK,
    Posterior,
    ReLU,
    Routed,
    Selective,
    Sigmoid,
    SparsePosterior,
    Stacked,
    Tempered,
    TopP,
    Weighted,
)
from moesaic.testing import check_combiner, check_module_combiner


class TrainedStacker(Stacked):
    """A stacker as training leaves it: its last layer is not zero, so that the features matter."""

    def attach(self, num_members, vocab_size):
        super().attach(num_members, vocab_size)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            torch.nn.init.normal_(self.network[-1].weight)


def trained_stacker(**arguments):
    return TrainedStacker(**arguments)


def clustered(**arguments):
    """Clusters that differ, whatever the number of members."""
    return RandomClusters(num_features=8, temperature=0.5, **arguments)


class RandomClusters(Clustered):
    def attach(self, num_members, vocab_size):
        super().attach(num_members, vocab_size)
        generator = torch.Generator().manual_seed(1)
        self.token_places.copy_(torch.randn(vocab_size, 8, generator=generator))
        self.centers.copy_(torch.randn(num_members, 8, generator=generator))


CASES = {
    "probability average": (Average, False),
    "log-probability average": (lambda: Average("log_probability"), False),
    "logit average": (lambda: Average("logit"), False),
    "weighted": (Weighted, True),
    "weighted in log-probability": (lambda: Weighted(space="log_probability"), True),
    "routed, dense": (Routed, True),
    "routed, dense, logit": (lambda: Routed(space="logit"), True),
    "routed by a network": (lambda: Routed(hidden_width=8), True),
    "routed, top-p": (lambda: Routed(choice=TopP(0.7, entropy_coef=0.01)), True),
    "routed, hard": (lambda: Routed(choice=Hard()), True),
    "routed, hard, logit": (lambda: Routed(choice=Hard(), space="logit"), True),
    "routed, gumbel": (lambda: Routed(choice=Hard(gumbel=True, temperature=0.5)), True),
    "posterior": (Posterior, False),
    "posterior that forgets": (lambda: Posterior(forgetting=0.9), False),
    "sparse posterior": (lambda: SparsePosterior(after=3), False),
    "sparse posterior that decides late and forgets": (lambda: SparsePosterior(after=5, forgetting=0.9), False),
    "additive": (Additive, False),
    "weighted by domain": (DomainWeighted, False),
    "entropy": (Entropy, True),
    "stacked": (trained_stacker, True),
    "stacked, with evidence": (lambda: trained_stacker(forgetting=0.95), True),
    "clustered": (clustered, True),
    "selective": (lambda: Selective(Average(), threshold=0.05), False),
    "selective, by margin": (lambda: Selective(Weighted(), threshold=0.006, measure="margin"), False),
    "selective, by entropy": (lambda: Selective(Entropy(), threshold=-5.07, measure="entropy"), False),
    "selective, the router's first": (lambda: Selective(Routed(), threshold=0.05, main=None), True),
    "selective, always": (lambda: Selective(Weighted(), threshold=float("inf")), True),
    "selective, never": (lambda: Selective(Average(), threshold=float("-inf")), False),
    "tempered selective": (lambda: Tempered(Selective(Average(), threshold=0.05)), False),
    "tempered average": (lambda: Tempered(Average()), False),
    "tempered posterior": (lambda: Tempered(Posterior()), False),
    "tempered sparse posterior": (lambda: Tempered(SparsePosterior(after=3)), False),
    "tempered sum": (lambda: Tempered(Additive()), False),
}


# These need two members at least: top_k, or the weight of one is not 1.
TOP_TWO = {
    "top-k": (lambda: Routed(top_k=2), True),
    "top-k, probabilities as they are": (lambda: Routed(top_k=2, normalize=False), True),
    "sparse posterior of two": (lambda: SparsePosterior(keep=2, after=3), False),
    "noisy top-k": (lambda: Routed(choice=NoisyTopK(2), hidden_width=8), True),
    "sigmoid": (lambda: Routed(choice=Sigmoid(2)), True),
    "relu": (lambda: Routed(choice=ReLU(num_active=1.5), space="logit"), True),
}


@pytest.mark.parametrize("name", TOP_TWO)
def test_every_router_of_several_members_keeps_the_contract(name):
    make, learns = TOP_TWO[name]
    check_combiner(make, learns=learns, min_members=2)


@pytest.mark.parametrize("name", CASES)
def test_every_combiner_keeps_the_contract(name):
    make, learns = CASES[name]
    check_combiner(make, learns=learns)


@pytest.mark.parametrize("name", [name for name, (make, _) in CASES.items() if not make().reads_tokens])
def test_every_combiner_that_reads_no_tokens_keeps_the_contract_for_classifiers(name):
    make, learns = CASES[name]
    check_module_combiner(make, learns=learns)


def test_every_registered_choice_is_checked():
    routed = [make() for make, _ in (CASES | TOP_TWO).values() if make().word == "routed"]
    assert {combiner.choice.word for combiner in routed} == set(CHOICES) - {"expert_choice"}


def test_every_registered_combiner_is_checked():
    # A causal model has no source: what routes by one is checked in tests/test_seq2seq_mixture.py.
    assert {make().word for make, _ in CASES.values()} == set(COMBINERS) - {"by_source"}
