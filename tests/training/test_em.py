import re

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from moesaic.data import Examples
from moesaic.errors import TrainingError
from moesaic.training import (
    EstimatorLearner,
    MixtureObjective,
    NetworkLearner,
    TrainingOptions,
    accuracy,
    fit_em,
    predict_logits,
    regression,
    sample_examples,
)

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.linspace(-2, 2, 120).unsqueeze(1)
NOISE = 0.05 * torch.randn(120, generator=GENERATOR)
# two lines that meet: no line fits both
NUMBERS = Examples(INPUTS, INPUTS.squeeze(1).abs() + NOISE)
# class 1 lies between the two ends, where class 0 is
CLASSES = Examples(INPUTS, ((INPUTS.squeeze(1) + NOISE).abs() < 1).long())

LINE = EstimatorLearner(lambda seed: LinearRegression())
LOGISTIC = EstimatorLearner(lambda seed: LogisticRegression(C=np.inf, tol=1e-8, max_iter=2000), num_classes=2)


def router(num_experts):
    # tol: the weighted fit is to be at its optimum, as EM takes it to be
    return EstimatorLearner(lambda seed: LogisticRegression(C=100, tol=1e-8, max_iter=2000), num_classes=num_experts)


def networks(num_outputs, objective=None, **options):
    settings = TrainingOptions(
        num_steps=30, batch_size=60, learning_rate=0.05, weight_decay=0.0, num_warmup_steps=2, checkpoint_every=0
    )
    extra = {} if objective is None else {"objective": objective}
    return NetworkLearner(lambda examples, seed: nn.Linear(1, num_outputs), settings, **extra)


def assert_never_decreases(fitted):
    likelihoods = [iteration.log_likelihood for iteration in fitted.iterations]
    assert len(likelihoods) > 2
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] > likelihoods[0]


def test_two_lines_are_found_and_the_likelihood_never_decreases():
    fitted = fit_em([LINE, LINE], router(2), NUMBERS, regression=True)
    assert_never_decreases(fitted)
    slopes = sorted(float(expert.estimator.coef_[0]) for expert in fitted.experts)
    assert slopes == pytest.approx([-1, 1], abs=0.03)
    assert fitted.noise_scales == pytest.approx((0.05, 0.05), abs=0.015)


def test_experts_at_their_optimum_are_kept_in_every_round():
    # random shares: EM has a long way to go. A constant router's optimum is the mean of the shares.
    shares = torch.rand(120, 2, generator=torch.Generator().manual_seed(1))
    shares = shares / shares.sum(dim=1, keepdim=True)
    constant = EstimatorLearner(lambda seed: DummyClassifier(strategy="prior"), num_classes=2)
    fitted = fit_em([LINE, LINE], constant, NUMBERS, regression=True, responsibilities=shares, num_iterations=8)
    assert_never_decreases(fitted)
    assert all(iteration.fitted == (0, 1) for iteration in fitted.iterations)
    assert all(iteration.router_fitted for iteration in fitted.iterations[1:6])


def test_classifiers_divide_the_inputs_among_them():
    fitted = fit_em([LOGISTIC, LOGISTIC], router(2), CLASSES, num_iterations=15)
    assert_never_decreases(fitted)
    assert fitted.noise_scales is None
    assert accuracy(predict_logits(fitted.mixture(), INPUTS), CLASSES.labels) > 0.95


def test_networks_keep_a_step_only_if_the_likelihood_is_no_lower():
    fitted = fit_em([networks(2)] * 2, networks(2), CLASSES, num_iterations=15, tolerance=0.0)
    assert_never_decreases(fitted)
    assert accuracy(predict_logits(fitted.mixture(), INPUTS), CLASSES.labels) > 0.9


def test_a_step_that_lowers_the_likelihood_is_not_kept():
    # at this learning rate networks jump about
    learner = networks(1, regression)
    wild = NetworkLearner(learner.make, TrainingOptions(num_steps=1, batch_size=60, learning_rate=30.0), regression)
    fitted = fit_em([LINE, wild], router(2), NUMBERS, regression=True, num_iterations=4, tolerance=-1.0)
    assert any(1 not in iteration.fitted for iteration in fitted.iterations[1:])
    likelihoods = [iteration.log_likelihood for iteration in fitted.iterations]
    assert likelihoods == sorted(likelihoods)


def test_networks_and_estimators_are_experts_of_one_mixture():
    fitted = fit_em([LINE, networks(1, regression)], router(2), NUMBERS, regression=True, num_iterations=20)
    assert_never_decreases(fitted)
    mixture = fitted.mixture(["line", "network"])
    assert repr(mixture) == "RoutedMixture([line, network], EstimatorModule, top_k=all)"
    torch.testing.assert_close(mixture(INPUTS).logits.squeeze(1), NUMBERS.labels, atol=0.4, rtol=0)


def test_an_expert_may_be_a_mixture_that_em_fits():
    # class 1 lies in two bands: four pieces, of which each branch has two
    examples = Examples(INPUTS, ((INPUTS.squeeze(1).abs() - 1 + NOISE).abs() < 0.5).long())

    def branch(examples, *, seed):
        return fit_em([LOGISTIC, LOGISTIC], router(2), examples, num_iterations=4, seed=seed).mixture()

    fitted = fit_em([branch, branch], router(2), examples, num_iterations=4)
    mixture = fitted.mixture(["low", "high"])
    assert [type(member).__name__ for member in mixture.members] == ["RoutedMixture", "RoutedMixture"]
    likelihoods = [iteration.log_likelihood for iteration in fitted.iterations]
    assert likelihoods == sorted(likelihoods)
    assert accuracy(predict_logits(mixture, INPUTS), examples.labels) > 0.9


def test_one_expert_is_the_plain_fit():
    only = EstimatorLearner(lambda seed: DummyClassifier(strategy="prior"))
    fitted = fit_em([LINE], only, NUMBERS, regression=True)
    assert torch.equal(predict_logits(fitted.experts[0], INPUTS), predict_logits(LINE(NUMBERS, seed=0), INPUTS))
    residuals = predict_logits(fitted.experts[0], INPUTS).squeeze(1) - NUMBERS.labels
    assert fitted.noise_scales[0] == pytest.approx(residuals.square().mean().sqrt().item(), rel=1e-5)


def test_the_likelihood_is_that_of_the_mixture():
    fitted = fit_em([LOGISTIC, LOGISTIC], router(2), CLASSES, num_iterations=5)
    mixture = fitted.mixture()
    batch = sample_examples(mixture, CLASSES, batch_size=120, seed=0).examples
    expected = -MixtureObjective()(mixture, batch).total.item()
    assert fitted.iterations[-1].log_likelihood == pytest.approx(expected, abs=1e-5)
    assert fitted.log_likelihood(CLASSES) == pytest.approx(expected, abs=1e-5)


def test_the_responsibilities_are_those_of_bayes():
    fitted = fit_em([LINE, LINE], router(2), NUMBERS, regression=True, num_iterations=5)
    gates = predict_logits(fitted.router, INPUTS).softmax(1)
    densities = torch.stack(
        [
            torch.distributions.Normal(predict_logits(expert, INPUTS).squeeze(1), scale).log_prob(NUMBERS.labels).exp()
            for expert, scale in zip(fitted.experts, fitted.noise_scales, strict=True)
        ],
        dim=1,
    )
    joint = gates * densities
    torch.testing.assert_close(fitted.responsibilities, joint / joint.sum(1, keepdim=True), atol=1e-4, rtol=1e-3)


def test_a_row_that_counts_twice_is_a_row_that_stands_there_twice():
    shares = torch.where(INPUTS < 0, torch.tensor([0.8, 0.2]), torch.tensor([0.2, 0.8]))
    rows = np.concatenate([np.arange(120), np.arange(40)])
    weights = torch.ones(120)
    weights[:40] = 2
    weighted = Examples(INPUTS, NUMBERS.labels, weights)
    line = {"regression": True, "num_iterations": 3}
    twice = fit_em([LINE, LINE], router(2), NUMBERS.take(rows), responsibilities=shares[rows], **line)
    once = fit_em([LINE, LINE], router(2), weighted, responsibilities=shares, **line)
    assert once.noise_scales == pytest.approx(twice.noise_scales, rel=1e-2)
    assert once.iterations[-1].log_likelihood == pytest.approx(twice.iterations[-1].log_likelihood, rel=1e-2)


def test_the_same_seed_repeats():
    first, second = (fit_em([networks(2)] * 2, networks(2), CLASSES, num_iterations=2, seed=4) for _ in range(2))
    assert first.iterations == second.iterations


def test_the_scale_has_a_floor():
    exact = Examples(INPUTS, INPUTS.squeeze(1).abs())
    fitted = fit_em([LINE, LINE], router(2), exact, regression=True, smallest_noise=0.1, num_iterations=30)
    assert min(fitted.noise_scales) == pytest.approx(0.1 * exact.labels.double().std().item())


def test_texts_begin_where_the_domains_say():
    texts = ["pay bill", "pay rent", "play song", "play film"] * 5
    labels = torch.tensor([0, 1, 1, 0] * 5)
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]] * 5)

    def classifier(seed):
        return make_pipeline(CountVectorizer(), LogisticRegression(C=100))

    learner = EstimatorLearner(classifier, num_classes=2)
    fitted = fit_em([learner, learner], learner, Examples(texts, labels), responsibilities=shares, num_iterations=3)
    assert accuracy(predict_logits(fitted.mixture(top_k=1), texts), labels) == 1.0


# an expert dies


def test_an_expert_that_dies_is_left_as_it_was_with_a_warning():
    # it says 100 of numbers around 1, whatever it is fitted on
    hopeless = EstimatorLearner(lambda seed: DummyRegressor(strategy="constant", constant=100.0))
    sentence = (
        "Expert 1 died: responsible for less than 1 row of the examples, and left as last fitted. Use fewer experts, "
        "other responsibilities to begin with, or another seed."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        fitted = fit_em([LINE, hopeless], router(2), NUMBERS, regression=True)
    assert fitted.iterations[0].dead == ()
    assert fitted.iterations[-1].dead == (1,)
    assert_never_decreases(fitted)
    plain = predict_logits(LINE(NUMBERS, seed=0), INPUTS)
    torch.testing.assert_close(predict_logits(fitted.mixture(), INPUTS), plain, atol=1e-2, rtol=0)


# bad input


@pytest.mark.parametrize(
    ("experts", "arguments", "sentence"),
    [
        ([], {}, "EM needs at least one expert, got none."),
        ([LOGISTIC], {"num_iterations": -1}, "num_iterations must be 0 or more, got -1."),
        ([LOGISTIC], {"smallest_noise": 0.0}, "smallest_noise must be above 0, got 0."),
        (
            [EstimatorLearner(lambda seed: KNeighborsClassifier())] * 2,
            {},
            "KNeighborsClassifier takes no sample_weight, so it cannot be fitted on weighted examples, as boosting and "
            "EM do. Use an estimator whose fit takes it, such as LogisticRegression, LinearRegression or a tree, or a "
            "NetworkLearner.",
        ),
        (
            [EstimatorLearner(lambda seed: make_pipeline(StandardScaler(), KNeighborsClassifier()))] * 2,
            {},
            "KNeighborsClassifier takes no sample_weight, so it cannot be fitted on weighted examples, as boosting and "
            "EM do. Use an estimator whose fit takes it, such as LogisticRegression, LinearRegression or a tree, or a "
            "NetworkLearner.",
        ),
        (
            [LOGISTIC, LOGISTIC],
            {"responsibilities": torch.ones(120, 3) / 3},
            "responsibilities must have a row for each of the 120 examples and a column for each of the 2 experts, got "
            "the shape (120, 3).",
        ),
        (
            [LOGISTIC, LOGISTIC],
            {"responsibilities": torch.ones(120, 2)},
            "responsibilities must be non-negative and sum to 1 in each row; row 0 is [1.0, 1.0].",
        ),
        (
            [LOGISTIC, LOGISTIC],
            {"responsibilities": torch.tensor([1.0, 0.0]).repeat(120, 1)},
            "Expert 1 is responsible for less than 1 row to begin with, so there is nothing to fit it on. Give it rows "
            "in responsibilities, or leave it out.",
        ),
    ],
)
def test_what_em_cannot_begin_with_is_refused(experts, arguments, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit_em(experts, router(2), CLASSES, **arguments)


def test_texts_cannot_be_clustered():
    sentence = (
        "EM begins with clusters of the inputs, which must be numbers for that, got list. Give responsibilities, for "
        "example one expert a known domain."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit_em([LOGISTIC, LOGISTIC], router(2), Examples(["a", "b"], torch.tensor([0, 1])))


def test_offsets_are_refused():
    sentence = "EM fits experts on labels alone, and the examples have offsets, which are for boosting. Leave them out."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit_em([LOGISTIC], router(2), Examples(INPUTS, CLASSES.labels, offsets=torch.zeros(120, 2)))


def test_what_is_no_number_is_told_at_once():
    class Broken(nn.Module):
        def forward(self, inputs):
            return torch.full((len(inputs), 2), float("nan"))

    sentence = (
        "Round 0 of 50: the log-likelihood is nan, as some expert or the router gives what is no number. Lower its "
        "learning rate, or check the labels."
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(sentence)}$"):
        fit_em([LOGISTIC, lambda examples, *, seed: Broken()], router(2), CLASSES)
