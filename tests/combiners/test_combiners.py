import math

import pytest
import torch

from moesaic.combiners import (
    Additive,
    Average,
    Combiner,
    DomainWeighted,
    Entropy,
    Posterior,
    Routed,
    Stacked,
    Tempered,
    Weighted,
    build_combiner,
    register,
    top_k_routing,
)
from moesaic.mixture import Mixture

TOKENS = torch.tensor([[5, 17, 8, 42]])


def test_uniform_weights_equal_the_average(members):
    average = Mixture(members, Average())(TOKENS).logits
    torch.testing.assert_close(Mixture(members, Weighted([1 / 3, 1 / 3, 1 / 3]))(TOKENS).logits, average)


def test_one_hot_weights_equal_that_member(members):
    expected = members[1].network(TOKENS).logits.log_softmax(-1)
    torch.testing.assert_close(Mixture(members, Weighted([0.0, 1.0, 0.0]))(TOKENS).logits, expected)


def test_top_k_of_all_members_equals_the_dense_mixture(members):
    torch.testing.assert_close(
        Mixture(members, Routed(top_k=3))(TOKENS).logits, Mixture(members, Routed())(TOKENS).logits
    )


def test_top_k_uses_that_many_members(members):
    weights = Mixture(members, Routed(top_k=2))(TOKENS).routing.weights
    assert ((weights > 0).sum(-1) == 2).all()


def test_top_k_without_rescaling_keeps_the_probabilities():
    # softmax(log 6, log 3, log 1) = (0.6, 0.3, 0.1)
    logits = torch.tensor([6.0, 3.0, 1.0]).log()
    torch.testing.assert_close(top_k_routing(logits, top_k=2, normalize=False).weights, torch.tensor([0.6, 0.3, 0.0]))
    torch.testing.assert_close(top_k_routing(logits, top_k=2).weights, torch.tensor([2 / 3, 1 / 3, 0.0]))


def test_the_posterior_gives_a_text_the_mean_of_the_members_probabilities(members):
    # Bayes' rule: the product of the mixture's predictions is the mixture of the products.
    def log_probability(logits):
        predictions = logits.log_softmax(-1)[:, :-1]
        return predictions.gather(-1, TOKENS[:, 1:, None]).sum().item()

    each = torch.tensor([log_probability(member.network(TOKENS).logits) for member in members])
    expected = each.logsumexp(0).item() - math.log(3)
    assert log_probability(Mixture(members, Posterior())(TOKENS).logits) == pytest.approx(expected, abs=1e-4)


def test_the_posterior_begins_with_equal_weights(members):
    weights = Mixture(members, Posterior())(TOKENS).routing.weights
    torch.testing.assert_close(weights[0, 0], torch.full((3,), 1 / 3))


def test_additive_is_the_weighted_sum_of_logits(members):
    first, second, third = (member.network(TOKENS).logits for member in members)
    output = Mixture(members, Additive([1.0, 0.5, 0.0]))(TOKENS)
    torch.testing.assert_close(output.logits, first + 0.5 * second + 0 * third)
    torch.testing.assert_close(output.routing.weights[0, 0], torch.tensor([1.0, 0.5, 0.0]))


def test_a_member_that_is_surer_gets_more_weight():
    # Two members over two tokens: a coin, with entropy log 2, and certainty, with entropy 0.
    coin, certain = torch.zeros(1, 1, 2), torch.tensor([[[50.0, -50.0]]])
    combiner = Entropy(temperature=0.5)
    routing = combiner(torch.stack([coin, certain]), TOKENS[:, :1], torch.ones(1, 1, dtype=torch.bool)).routing
    # softmax(-log 2 / 0.5, 0) = (1/4, 1) / (5/4)
    torch.testing.assert_close(routing.weights[0, 0], torch.tensor([0.2, 0.8]))


def test_tempering_with_another_combiner_divides_the_logits(members):
    member = members[0]
    tempered = Mixture([member], Tempered(Average("logit"), [2.0]))(TOKENS).logits
    torch.testing.assert_close(tempered, member.network(TOKENS).logits / 2)


def test_one_domain_weighs_like_the_weighted_mean(members):
    weights = [0.2, 0.3, 0.5]
    torch.testing.assert_close(
        Mixture(members, DomainWeighted([weights]))(TOKENS).logits, Mixture(members, Weighted(weights))(TOKENS).logits
    )


def test_a_domain_for_each_member_is_the_posterior(members):
    one_hot = torch.eye(3).tolist()
    torch.testing.assert_close(
        Mixture(members, DomainWeighted(one_hot))(TOKENS).logits, Mixture(members, Posterior())(TOKENS).logits
    )


def test_an_untrained_stacker_is_the_weighted_mean_of_its_constants(members):
    weights = [0.2, 0.3, 0.5]
    expected = Mixture(members, Weighted(weights))(TOKENS).logits
    for forgetting in (None, 0.9):
        stacked = Mixture(members, Stacked(weights, forgetting=forgetting))
        torch.testing.assert_close(stacked(TOKENS).logits, expected)


@pytest.mark.parametrize(
    ("combiner", "expected"),
    [
        (Additive([1.0, 0.5]), [1.0, 0.5, 0.75]),  # the mean step size
        (DomainWeighted([[0.75, 0.25]]), [0.5, 1 / 6, 1 / 3]),  # a third, and the others rescaled
        (Stacked([0.75, 0.25]), [0.5, 1 / 6, 1 / 3]),
        (Tempered(Weighted([0.75, 0.25]), [2.0, 3.0]), [0.5, 1 / 6, 1 / 3]),
    ],
    ids=lambda case: getattr(case, "word", ""),
)
def test_a_member_that_is_added_begins_with_the_mean_weight(members, combiner, expected):
    combiner.attach(2, 300)
    combiner.extend()
    torch.testing.assert_close(Mixture(members, combiner)(TOKENS).routing.weights[0, 0], torch.tensor(expected))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Weighted([0.5, 0.6]), "weights must be non-negative and sum to 1, got [0.5, 0.6], which sum to 1.1."),
        (lambda: Weighted([]), "weights must be non-negative and sum to 1, got [], which sum to 0."),
        (lambda: Additive([1.0, -0.5]), "weights must be non-negative, one a member, got [1.0, -0.5]."),
        (lambda: Additive([1.0]).attach(2, 5), "Additive has 1 weights for 2 members; give one a member."),
        (lambda: Entropy(temperature=0), "temperature must be positive, got 0."),
        (
            lambda: Tempered(Average(), [1.0, 0.0]),
            "temperatures must be positive, one a member, got [1.0, 0.0].",
        ),
        (
            lambda: Tempered(Average(), [1.0]).attach(3, 5),
            "Tempered has 1 temperatures for 3 members; give one a member.",
        ),
        (
            lambda: DomainWeighted([[0.5, 0.5], [0.5, 0.6]]),
            "weights of domain 1 must be non-negative and sum to 1, got [0.5, 0.6], which sum to 1.1.",
        ),
        (
            lambda: DomainWeighted([[1.0]]).attach(2, 5),
            "DomainWeighted has 1 weights in domain 0 for 2 members; give one a member.",
        ),
        (lambda: Stacked([1.0]).attach(2, 5), "Stacked has 1 weights for 2 members; give one a member."),
        (lambda: Posterior(forgetting=1.5), "forgetting must be from 0 to 1, got 1.5."),
        (
            lambda: build_combiner("averaged"),
            "No combiner is called 'averaged'; there are additive, average, by_source, clustered, domain_weighted, "
            "entropy, posterior, routed, selective, sparse_posterior, stacked, tempered, weighted.",
        ),
        (lambda: top_k_routing(torch.zeros(2), top_k=3), "top_k must be from 1 to num_members (2), got 3."),
        (lambda: register("average")(Average), "The word 'average' already names the combiner Average."),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("combiner", "sentence"),
    [
        (Weighted([0.5, 0.5]), "Weighted has 2 weights for 3 members; give one a member."),
        (Routed(top_k=4), "top_k must be from 1 to num_members (3), got 4."),
    ],
)
def test_a_combiner_that_does_not_fit_the_members_is_refused(members, combiner, sentence):
    with pytest.raises(ValueError) as error:
        Mixture(members, combiner)
    assert str(error.value) == sentence


def test_a_combiner_of_ones_own_is_known_by_its_word():
    from moesaic.combiners import COMBINERS

    @register("first")
    class First(Average):
        pass

    try:
        assert isinstance(build_combiner("first"), First)
        assert issubclass(First, Combiner)
    finally:
        del COMBINERS["first"]
