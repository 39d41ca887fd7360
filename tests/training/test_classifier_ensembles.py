import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from moesaic.combiners import Additive, Average, Stacked
from moesaic.data import ExampleBatch, Examples, ExampleSampler
from moesaic.errors import DataError, LeakageError, TrainingError
from moesaic.members import ModuleMember, make_text_classifier
from moesaic.module_mixture import ModuleMixture
from moesaic.training import (
    AdversarialClassification,
    Classification,
    EstimatorLearner,
    NetworkLearner,
    TrainingOptions,
    Votes,
    accuracy,
    adaboost,
    average_parameters,
    bag,
    fit,
    fit_combiner,
    fit_snapshots,
    fit_weights,
    gradient_boost,
    out_of_bag_accuracy,
    out_of_fold_logits,
    predict_logits,
    regression,
    sample_examples,
)

OPTIONS = TrainingOptions(num_steps=40, batch_size=20, learning_rate=0.05, num_warmup_steps=2, checkpoint_every=0)


def draw(num_rows, seed):
    """Three clouds of points, the second dimension of no use."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_rows) % 3
    inputs = torch.stack([labels - 1.0, torch.zeros(num_rows)], dim=1)
    return Examples(inputs + 0.4 * torch.randn(num_rows, 2, generator=generator), labels)


TRAIN, VALIDATION = draw(120, seed=0), draw(60, seed=1)


def network_learner(**options):
    return NetworkLearner(lambda examples, seed: nn.Linear(2, 3), OPTIONS, **options)


def tree_learner(depth=2):
    return EstimatorLearner(lambda seed: DecisionTreeClassifier(max_depth=depth, random_state=seed), num_classes=3)


def assert_same_bits(first, second):
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


# examples and batches


def test_an_epoch_draws_every_example_once():
    sampler = ExampleSampler(ExampleBatch((torch.arange(12),), torch.zeros(12)), batch_size=4, seed=0)
    for epoch in range(2):
        drawn = torch.cat([sampler.batch(3 * epoch + step).inputs[0] for step in range(3)])
        assert sorted(drawn.tolist()) == list(range(12))
    assert not torch.equal(sampler.batch(0).inputs[0], sampler.batch(3).inputs[0])


def test_a_batch_is_a_function_of_seed_and_step():
    batch = ExampleBatch((torch.arange(12),), torch.zeros(12))
    later = ExampleSampler(batch, batch_size=4, seed=0, first_step=2)
    assert torch.equal(later.batch(3).inputs[0], ExampleSampler(batch, batch_size=4, seed=0).batch(5).inputs[0])


def test_batches_hold_examples_of_about_the_same_length():
    lengths = torch.arange(12) % 3
    sampler = ExampleSampler(ExampleBatch((lengths,), torch.zeros(12)), batch_size=4, seed=0, lengths=lengths)
    for step in range(3):
        assert len(set(sampler.batch(step).inputs[0].tolist())) == 1


def test_rows_taken_keep_their_labels_weights_and_offsets():
    examples = Examples(["a", "b", "c"], torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 3.0]), torch.eye(3))
    taken = examples.take(np.array([2, 2, 0]))
    assert taken.inputs == ["c", "c", "a"]
    assert taken.labels.tolist() == [2, 2, 0]
    assert taken.weights.tolist() == [3.0, 3.0, 1.0]
    assert taken.offsets.argmax(1).tolist() == [2, 2, 0]


def test_every_input_needs_a_label():
    with pytest.raises(ValueError, match=r"^Every input needs a label: got 1 inputs and 2 labels\.$"):
        Examples(["a"], torch.tensor([0, 1]))


# what is minimized


class Fixed(nn.Module):
    def forward(self, logits):
        return logits


def test_the_loss_counts_examples_by_their_weights():
    # even odds cost log 2; the second example, of weight 0, costs nothing: (log 2 + 0) / 2
    batch = ExampleBatch((torch.zeros(2, 2),), torch.tensor([0, 1]), weights=torch.tensor([1.0, 0.0]))
    assert Classification()(Fixed(), batch).total.item() == pytest.approx(math.log(2) / 2)


def test_the_loss_is_that_of_the_sum_where_there_are_offsets():
    # offsets (log 2, 0) + 0.5 · (2 log 2, 0) = (log 4, 0): probabilities (0.8, 0.2)
    batch = ExampleBatch(
        (torch.tensor([[2 * math.log(2), 0.0]]),), torch.tensor([1]), offsets=torch.tensor([[math.log(2), 0.0]])
    )
    assert Classification(shrinkage=0.5)(Fixed(), batch).total.item() == pytest.approx(-math.log(0.2))


def test_label_smoothing_asks_for_a_little_of_every_class():
    # log-probabilities log 0.8 and log 0.2, target (0.9, 0.1)
    batch = ExampleBatch((torch.tensor([[0.8, 0.2]]).log(),), torch.tensor([0]))
    expected = -0.9 * math.log(0.8) - 0.1 * math.log(0.2)
    assert Classification(label_smoothing=0.2)(Fixed(), batch).total.item() == pytest.approx(expected)


def test_a_regressor_learns_numbers():
    inputs = torch.linspace(-1, 1, 40).unsqueeze(1)
    examples = Examples(inputs, 3 * inputs.squeeze(1) + 1)
    options = TrainingOptions(num_steps=150, batch_size=20, learning_rate=0.1, weight_decay=0.0, checkpoint_every=0)
    line = NetworkLearner(lambda examples, seed: nn.Linear(1, 1), options, regression)(examples, seed=0)
    assert line.weight.item() == pytest.approx(3, abs=0.05)
    assert line.bias.item() == pytest.approx(1, abs=0.05)


def test_a_pipeline_learns_from_weighted_texts():
    learner = EstimatorLearner(lambda seed: make_pipeline(CountVectorizer(), LogisticRegression()), num_classes=3)
    examples = Examples(["pay", "pay", "play"], torch.tensor([0, 1, 1]), weights=torch.tensor([9.0, 1.0, 9.0]))
    logits = predict_logits(learner(examples, seed=0), ["pay", "play"])
    assert logits.argmax(1).tolist() == [0, 1]
    assert logits[:, 2].max() < logits[:, :2].min()  # the class without an example is the least likely


def test_an_estimator_regresses_too():
    learner = EstimatorLearner(lambda seed: LinearRegression())
    examples = Examples(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 3.0]))
    assert predict_logits(learner(examples, seed=0), torch.tensor([[2.0]])).item() == pytest.approx(5)


class Bag(nn.Module):
    """Texts of two tokens, by the mean of their vectors."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).mean(dim=1))


def test_adversarial_training_also_reads_with_embeddings_moved_to_a_higher_loss():
    torch.manual_seed(0)
    network, batch = Bag(), ExampleBatch((torch.tensor([[0, 1], [2, 3]]),), torch.tensor([0, 1]))
    plain = Classification()(network, batch)
    plain.total.backward()
    gradient = network.embedding.weight.grad
    with torch.no_grad():
        network.embedding.weight.add_(0.5 * gradient / gradient.norm())
        moved = Classification()(network, batch).total
        network.embedding.weight.sub_(0.5 * gradient / gradient.norm())
    losses = AdversarialClassification(norm=0.5)(network, batch)
    assert moved > plain.total
    assert losses.total.item() == pytest.approx((plain.total.item() + moved.item()) / 2)
    assert losses.parts["nats"].item() == pytest.approx(plain.total.item())
    losses.total.backward()
    assert network.embedding.weight.grad.isfinite().all()
    assert AdversarialClassification()(network.eval(), batch).total.item() == pytest.approx(plain.total.item())


def test_adversarial_training_needs_embeddings():
    batch = ExampleBatch((torch.zeros(1, 2),), torch.tensor([0]))
    sentence = "Adversarial training moves embeddings, and Linear has none. Use Classification."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        AdversarialClassification()(nn.Linear(2, 2), batch)


# bagging


def test_bagging_without_resampling_and_with_equal_seeds_equals_the_plain_member():
    plain = network_learner()(TRAIN, seed=3)
    for network in bag(network_learner(), TRAIN, seeds=[3, 3], replace=False, execution="loop").networks:
        assert_same_bits(network, plain)


def test_bagged_members_differ_and_answer_for_what_they_have_not_seen():
    bagged = bag([network_learner(), tree_learner()], TRAIN, seeds=[0, 1, 2, 3])
    assert [type(network).__name__ for network in bagged.networks] == ["Linear", "EstimatorModule"] * 2
    members = [ModuleMember(str(number), network) for number, network in enumerate(bagged.networks)]
    mixture = ModuleMixture(members, Average())
    tested = accuracy(predict_logits(mixture, VALIDATION.inputs), VALIDATION.labels)
    assert out_of_bag_accuracy(bagged, TRAIN) == pytest.approx(tested, abs=0.1)


def test_processes_bag_the_same_members():
    alone = bag(network_learner(), TRAIN, seeds=[0, 1], execution="loop")
    together = bag(network_learner(), TRAIN, seeds=[0, 1], num_processes=2)
    for one, other in zip(alone.networks, together.networks, strict=True):
        assert_same_bits(one, other)


def perceptron_learner(**options):
    def make(examples, seed):
        return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))

    return NetworkLearner(make, replace(OPTIONS, weight_decay=0.5, max_grad_norm=0.3, **options))


def test_members_bagged_as_one_stacked_model_are_the_members_bagged_apart():
    # Decay and clipping are strong here: both must be each member's own.
    apart = bag(perceptron_learner(), TRAIN, seeds=[0, 1, 2], execution="loop")
    stacked = bag(perceptron_learner(), TRAIN, seeds=[0, 1, 2])
    for one, other in zip(apart.networks, stacked.networks, strict=True):
        assert not other.training
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
            assert theirs.requires_grad
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
        first = next(iter(stacked.networks[0].parameters()))
        assert other is stacked.networks[0] or not torch.allclose(first, next(iter(other.parameters())))


def test_weights_and_offsets_reach_stacked_members():
    examples = Examples(TRAIN.inputs, TRAIN.labels, torch.rand(120) + 0.5, torch.randn(120, 3))
    samples, seeds = [examples, examples], [0, 1]
    apart = perceptron_learner().fit_members(samples, seeds=seeds, execution="loop")
    stacked = perceptron_learner().fit_members(samples, seeds=seeds, execution="stacked")
    for one, other in zip(apart, stacked, strict=True):
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_the_loop_is_taken_where_stacking_cannot_keep_the_options():
    learner = perceptron_learner(gradient_accumulation_steps=2)
    plain = learner(TRAIN, seed=1)
    assert_same_bits(learner.fit_members([TRAIN, TRAIN], seeds=[0, 1])[1], plain)
    sentence = (
        "Stacked members are trained in one part, with one learning rate and AdamW: leave out "
        "gradient_accumulation_steps, learning_rate_scales and optimizer, or train the members one after the other."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        learner.fit_members([TRAIN, TRAIN], seeds=[0, 1], execution="stacked")


def test_only_one_network_learner_stacks():
    sentence = (
        "Members are stacked where one NetworkLearner trains them in one process, got 2 learners (NetworkLearner "
        "first) and 1 processes. Leave execution out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        bag([network_learner(), tree_learner()], TRAIN, seeds=[0, 1], execution="stacked")
    with pytest.raises(ValueError, match=r"^execution must be 'auto', 'stacked' or 'loop', got 'fast'\.$"):
        bag(network_learner(), TRAIN, seeds=[0, 1], execution="fast")


def test_a_bootstrap_smaller_than_a_batch_is_refused():
    sentence = (
        "A batch has 20 examples, and there are only 12 to draw from. Lower batch_size, or give more examples (raise "
        "max_samples, if they were resampled)."
    )
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        bag(network_learner(), TRAIN, seeds=[0], max_samples=0.1)


def test_without_resampling_nothing_is_out_of_bag():
    bagged = bag(tree_learner(), TRAIN, seeds=[0], replace=False)
    sentence = "Every member was trained on every row, so none is out of bag. Draw with replacement."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        out_of_bag_accuracy(bagged, TRAIN)


def test_a_bag_needs_a_seed():
    sentence = "Bagging needs a learner and a seed a member, got 1 learners, 0 seeds."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        bag(tree_learner(), TRAIN, seeds=[])


# boosting


def test_boosting_with_one_round_equals_the_plain_member():
    plain = network_learner()(TRAIN, seed=0)
    assert_same_bits(gradient_boost(network_learner(), TRAIN, VALIDATION, num_rounds=1).networks[0], plain)
    boosted = adaboost(network_learner(), TRAIN, num_classes=3, num_rounds=1)
    assert_same_bits(boosted.networks[0].network, plain)
    mixture = ModuleMixture([ModuleMember("first", boosted.networks[0])], Additive(boosted.weights))
    assert torch.equal(
        predict_logits(mixture, VALIDATION.inputs).argmax(1), predict_logits(plain, VALIDATION.inputs).argmax(1)
    )


def test_gradient_boosting_lowers_the_validation_loss_round_by_round():
    weak = NetworkLearner(
        lambda examples, seed: nn.Linear(2, 3),
        TrainingOptions(num_steps=20, batch_size=20, learning_rate=0.05, num_warmup_steps=1, checkpoint_every=0),
    )
    boosted = gradient_boost(weak, TRAIN, VALIDATION, num_rounds=3, shrinkage=0.5)
    assert boosted.weights == (1.0, 0.5, 0.5)
    assert boosted.losses[0] > boosted.losses[1] > boosted.losses[2]
    members = [ModuleMember(str(number), network) for number, network in enumerate(boosted.networks)]
    total = predict_logits(ModuleMixture(members, Additive(boosted.weights)), VALIDATION.inputs)
    assert nn.functional.cross_entropy(total, VALIDATION.labels).item() == pytest.approx(boosted.losses[-1], abs=1e-5)


def test_gradient_boosting_stops_where_a_round_does_not_help():
    def learner(examples, seed):
        return nn.Linear(2, 3) if seed == 0 else Broken()

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, inputs):
            return torch.tensor([0.0, 0.0, 9.0]).expand(len(inputs), 3) + 0 * self.unused

    with pytest.warns(UserWarning) as caught:
        boosted = gradient_boost(NetworkLearner(learner, OPTIONS), TRAIN, VALIDATION, num_rounds=5, shrinkage=1.0)
    first, second = boosted.losses
    assert str(caught[0].message) == (
        f"Boosting stopped: round 2 is no better than chance (validation loss {second:.4f}, before it {first:.4f}). 1 "
        "of 5 rounds are kept."
    )
    assert len(boosted.networks) == len(boosted.weights) == 1


def test_samme_weighs_members_and_examples_as_worked_out_by_hand():
    # Inputs 0, 1, 2 with labels 0, 1, 2: a stump tells one class apart and confuses the other two, so it errs at 1/3.
    # alpha = log((2/3) / (1/3)) + log(3 - 1) = log 4; the wrong third of the examples then weighs 4 against 1 and 1,
    # and the second stump, right there and on one of the others, errs at 1/6: log((5/6) / (1/6)) + log 2 = log 10.
    examples = Examples(torch.tensor([[0.0], [1.0], [2.0]] * 10), torch.tensor([0, 1, 2] * 10))
    boosted = adaboost(tree_learner(depth=1), examples, num_classes=3, num_rounds=2)
    assert boosted.losses == pytest.approx([1 / 3, 1 / 6])
    assert boosted.weights == pytest.approx([math.log(4), math.log(10)])


def test_samme_makes_a_strong_classifier_of_stumps():
    boosted = adaboost(tree_learner(depth=1), TRAIN, num_classes=3, num_rounds=20)
    members = [ModuleMember(str(number), network) for number, network in enumerate(boosted.networks)]
    total = predict_logits(ModuleMixture(members, Additive(boosted.weights)), VALIDATION.inputs)
    stump = predict_logits(boosted.networks[0], VALIDATION.inputs)
    assert accuracy(stump, VALIDATION.labels) < 0.7
    assert accuracy(total, VALIDATION.labels) > 0.8


def test_samme_agrees_with_scikit_learn():
    from sklearn.ensemble import AdaBoostClassifier

    stump = DecisionTreeClassifier(max_depth=1, random_state=0)
    theirs = AdaBoostClassifier(stump, n_estimators=5, random_state=0).fit(TRAIN.inputs.numpy(), TRAIN.labels.numpy())
    ours = adaboost(tree_learner(depth=1), TRAIN, num_classes=3, num_rounds=5)
    assert ours.weights == pytest.approx(theirs.estimator_weights_.tolist(), rel=1e-4)
    assert ours.losses == pytest.approx(theirs.estimator_errors_.tolist(), rel=1e-4)


def test_samme_stops_where_nothing_is_wrong():
    separable = Examples(torch.tensor([[0.0], [1.0], [2.0]] * 10), torch.tensor([0, 1, 2] * 10))
    boosted = adaboost(tree_learner(depth=2), separable, num_classes=3, num_rounds=5)
    assert boosted.losses == (0.0,)
    assert len(boosted.networks) == 1


class AlwaysFirst(nn.Module):
    def forward(self, inputs):
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(inputs), 3)


def test_samme_stops_at_a_round_no_better_than_chance():
    def learner(examples, *, seed):
        return tree_learner(depth=1)(examples, seed=seed) if seed == 0 else AlwaysFirst()

    # The first stump is right on class 0 and on one other: AlwaysFirst is right on weights 1 of 1 + 1 + 4.
    examples = Examples(torch.tensor([[0.0], [1.0], [2.0]] * 10), torch.tensor([0, 1, 2] * 10))
    sentence = (
        "Boosting stopped: round 2 is no better than chance (weighted error 0.833, that of guessing 0.667). 1 of 4 "
        "rounds are kept."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        boosted = adaboost(learner, examples, num_classes=3, num_rounds=4)
    assert len(boosted.networks) == 1
    assert boosted.num_rounds_tried == 2


def test_a_first_round_no_better_than_chance_is_an_error():
    sentence = (
        "Boosting has no first member: weighted error 0.667, that of guessing 0.667. Train it longer, or give it more "
        "to learn with."
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(sentence)}$"):
        adaboost(lambda examples, *, seed: AlwaysFirst(), TRAIN, num_classes=3, num_rounds=4)


@pytest.mark.parametrize(
    ("boost", "sentence"),
    [
        (
            lambda: adaboost(tree_learner(), TRAIN, num_classes=3, num_rounds=0),
            "Boosting needs num_rounds of 1 or more and a shrinkage above 0, got num_rounds=0 and shrinkage=1.0.",
        ),
        (
            lambda: adaboost(tree_learner(), TRAIN, num_classes=1, num_rounds=1),
            "num_classes must be 2 or more, got 1.",
        ),
        (
            lambda: gradient_boost(network_learner(), TRAIN, VALIDATION, num_rounds=1, shrinkage=0.0),
            "Boosting needs num_rounds of 1 or more and a shrinkage above 0, got num_rounds=1 and shrinkage=0.0.",
        ),
        (
            lambda: gradient_boost(network_learner(objective=regression), TRAIN, VALIDATION, num_rounds=1),
            "gradient_boost adds up class scores, so the learner's objective must be a Classification.",
        ),
        (
            lambda: tree_learner()(
                Examples(torch.zeros(2, 1), torch.tensor([0, 1]), offsets=torch.zeros(2, 3)), seed=0
            ),
            "A scikit-learn estimator cannot be trained on top of other scores, so it cannot be gradient-boosted here. "
            "Use a NetworkLearner, or adaboost.",
        ),
    ],
)
def test_what_cannot_be_boosted_is_refused(boost, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        boost()


def test_a_vote_is_one_for_the_likeliest_class():
    assert Votes(Fixed())(torch.tensor([[0.2, 3.0, 1.0]])).tolist() == [[0.0, 1.0, 0.0]]


# stacking


def test_out_of_fold_predictions_come_from_members_that_have_not_seen_the_row():
    # a full-grown tree remembers its rows: with random labels it is right on those alone
    generator = torch.Generator().manual_seed(0)
    noise = Examples(torch.randn(90, 2, generator=generator), torch.arange(90) % 3)
    learner = tree_learner(depth=None)
    seen = predict_logits(learner(noise, seed=0), noise.inputs)
    unseen = out_of_fold_logits({"tree": learner}, noise, num_folds=3).member_logits[0]
    assert accuracy(seen, noise.labels) == 1.0
    assert accuracy(unseen, noise.labels) < 0.6


def test_a_stacker_on_out_of_fold_predictions_prefers_the_better_member():
    learners = {"good": network_learner(), "blind": lambda examples, *, seed: AlwaysFirst()}
    held_out = out_of_fold_logits(learners, TRAIN, num_folds=3).held_out(TRAIN)
    weights = fit_weights(held_out.target_log_probabilities)
    assert weights[0] > 0.9
    stacker = Stacked(weights.tolist())
    before = -(held_out.target_log_probabilities[:, 0]).mean()
    assert fit_combiner(stacker, held_out, num_steps=20) < before + 0.1


def test_copies_of_an_input_share_a_fold():
    twice = Examples(torch.cat([TRAIN.inputs, TRAIN.inputs]), torch.cat([TRAIN.labels, TRAIN.labels]))
    made = out_of_fold_logits({"tree": tree_learner()}, twice, num_folds=3)
    for rows in made.folds:
        assert set((rows % 120).tolist()) == {row % 120 for row in rows.tolist()}
        assert len(rows) == 80
    made.held_out(twice)


def test_a_stacker_is_refused_rows_that_a_member_has_seen():
    made = out_of_fold_logits({"tree": tree_learner()}, TRAIN, num_folds=2)
    # an example of the second fold is written over with one of the first
    inputs = TRAIN.inputs.clone()
    inputs[made.folds[1][0]] = inputs[made.folds[0][0]]
    sentence = (
        "A stacker must be fitted on rows that no member was trained on; of these 60, tree of fold 1 has seen 1. Fit "
        "it on other rows, or on out-of-fold predictions."
    )
    with pytest.raises(LeakageError, match=f"^{re.escape(sentence)}$"):
        made.held_out(Examples(inputs, TRAIN.labels))


def test_a_label_without_a_row_in_a_fold_is_refused():
    rare = Examples(torch.randn(7, 2), torch.tensor([0, 0, 0, 1, 1, 1, 2]))
    sentence = "3 folds need at least 3 rows of 2, got 1: some fold would have none. Use fewer folds, or more rows."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        out_of_fold_logits({"tree": tree_learner()}, rare, num_folds=3)


# snapshots


def test_snapshots_and_soups_are_made_of_classifiers_too():
    network = nn.Linear(2, 3)
    sampler = sample_examples(network, TRAIN, batch_size=20, seed=0)
    snapshots = fit_snapshots(network, sampler, Classification(), OPTIONS, num_cycles=2)
    soup = average_parameters(snapshots)
    torch.testing.assert_close(soup.weight, (snapshots[0].weight + snapshots[1].weight) / 2)
    assert not torch.equal(snapshots[0].weight, snapshots[1].weight)


def test_a_text_classifier_learns_to_tell_texts_apart():
    examples = Examples(["pay my bill", "play a song", "pay rent", "play music"] * 5, torch.tensor([0, 1, 0, 1] * 5))
    network = make_text_classifier("word_average", examples.inputs, num_classes=2, seed=0, width=8, hidden_size=8)
    sampler = sample_examples(network, examples, batch_size=10, seed=0)
    fit(network, sampler, Classification(), TrainingOptions(num_steps=20, batch_size=10, learning_rate=0.02))
    assert predict_logits(network, ["play the songs", "paying bills"]).argmax(1).tolist() == [1, 0]
