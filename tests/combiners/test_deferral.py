import numpy as np
import pytest
import torch

from moesaic.combiners import calibrate_threshold, cascade_choice, cascade_probabilities, class_confidence

INFINITY = float("inf")
# From the least sure on: the small member is wrong twice where the large one is right, then both are right, then the
# small one is right where the large one is wrong. Passing on 0, 1, 2, 3 or 4 gives 2, 3, 4, 4 or 3 of 4.
CONFIDENCES, SMALL, LARGE = [0.9, 0.2, 0.6, 0.4], [1, 0, 1, 0], [0, 1, 1, 1]


def test_quality_within_a_tolerance_of_the_large_member_at_the_lowest_cost():
    # The large member alone has 3/4, which one example passed on reaches: all below 0.4.
    calibrated = calibrate_threshold(CONFIDENCES, SMALL, LARGE, tolerance=0.0)
    assert (calibrated.threshold, calibrated.deferred, calibrated.quality) == (0.4, 0.25, 0.75)
    assert (calibrated.small_quality, calibrated.large_quality) == (0.5, 0.75)


def test_with_a_tolerance_the_large_member_may_not_be_needed():
    calibrated = calibrate_threshold(CONFIDENCES, SMALL, LARGE, tolerance=0.25)
    assert (calibrated.threshold, calibrated.deferred) == (-INFINITY, 0.0)


@pytest.mark.parametrize(
    ("max_deferred", "threshold", "quality"),
    # Above two passed on, the third changes nothing and the fourth does harm.
    [(0.0, -INFINITY, 0.5), (0.49, 0.4, 0.75), (0.5, 0.6, 1.0), (1.0, 0.6, 1.0)],
)
def test_the_best_quality_within_a_budget(max_deferred, threshold, quality):
    calibrated = calibrate_threshold(CONFIDENCES, SMALL, LARGE, max_deferred=max_deferred)
    assert (calibrated.threshold, calibrated.quality) == (threshold, quality)


def test_the_large_member_may_always_be_worth_asking():
    calibrated = calibrate_threshold([0.1, 0.2], [0, 0], [1, 1], tolerance=0.0)
    assert (calibrated.threshold, calibrated.deferred) == (INFINITY, 1.0)


def test_examples_of_equal_confidence_go_together():
    # Passing on one of the two at 0.5 is not possible, and both are more than the budget.
    assert calibrate_threshold([0.5, 0.5, 0.9], [0, 0, 1], [1, 1, 1], max_deferred=0.5).deferred == 0.0


def test_the_threshold_does_on_the_data_what_it_says():
    draw = np.random.default_rng(0)
    confidences, small, large = draw.random((3, 50)).round(1)
    calibrated = calibrate_threshold(confidences, small, large, max_deferred=0.6)
    is_passed_on = cascade_choice(confidences, calibrated.threshold)
    assert is_passed_on.mean() == pytest.approx(calibrated.deferred)
    assert np.where(is_passed_on, large, small).mean() == pytest.approx(calibrated.quality)
    # No other threshold within the budget is better.
    for threshold in np.linspace(-0.05, 1.05, 12):
        other = cascade_choice(confidences, threshold)
        assert other.mean() > 0.6 or np.where(other, large, small).mean() <= calibrated.quality + 1e-12


def test_confidences_of_minus_infinity_can_be_passed_on():
    calibrated = calibrate_threshold([-INFINITY, -1.0], [0, 1], [1, 1], tolerance=0.0)
    assert (calibrated.threshold, calibrated.quality) == (-1.0, 1.0)


def test_tensors_are_taken_too():
    choice = cascade_choice(torch.tensor([0.9, 0.4]), 0.5)
    assert choice.tolist() == [False, True]


@pytest.mark.parametrize(
    ("measure", "expected"),
    # 0.5 log 0.5 + 2 * 0.25 log 0.25 = -1.5 log 2 = -1.0397; a sure classifier has no entropy.
    [("probability", [0.5, 1.0]), ("margin", [0.25, 1.0]), ("entropy", [-1.5 * np.log(2), 0.0])],
)
def test_confidence_of_a_classifier(measure, expected):
    np.testing.assert_allclose(class_confidence([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]], measure), expected, atol=1e-12)


def test_the_large_classifier_answers_where_the_small_one_is_unsure():
    small, large = [[0.9, 0.1], [0.6, 0.4]], [[0.0, 1.0], [0.2, 0.8]]
    assert cascade_probabilities(small, large, threshold=0.7).tolist() == [[0.9, 0.1], [0.2, 0.8]]
    # The margins are 0.8 and 0.2.
    assert cascade_probabilities(small, large, threshold=0.9, measure="margin").tolist() == large


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: cascade_choice([NAN, 1.0], 0.5),
            "A cascade cannot compare NaN: 1 of 2 confidences are, and the threshold is 0.5.",
        ),
        (
            lambda: class_confidence([[1.0]]),
            "Probabilities need at least two classes on the last axis, got the shape (1, 1).",
        ),
        (
            lambda: class_confidence([[0.5, 0.5]], "luck"),
            "measure must be one of probability, margin, entropy, got 'luck'.",
        ),
        (
            lambda: cascade_probabilities([[0.5, 0.5]], [[0.2, 0.4, 0.4]], threshold=0.5),
            "The small member's probabilities have shape (1, 2), the large one's (1, 3).",
        ),
        (
            lambda: calibrate_threshold([], [], [], tolerance=0.0),
            "Confidences and both qualities need one figure an example each, got the shapes (0,), (0,), (0,).",
        ),
        (
            lambda: calibrate_threshold([0.5, 0.6], [1], [1, 1], tolerance=0.0),
            "Confidences and both qualities need one figure an example each, got the shapes (2,), (1,), (2,).",
        ),
        (
            lambda: calibrate_threshold([NAN], [1], [1], tolerance=0.0),
            "Confidences and qualities must be numbers, and some are NaN; leave those examples out.",
        ),
        (
            lambda: calibrate_threshold([0.5], [1], [1]),
            "Give either tolerance, the quality that may be lost, or max_deferred, the share passed on.",
        ),
        (
            lambda: calibrate_threshold([0.5], [1], [1], tolerance=0.0, max_deferred=0.5),
            "Give either tolerance, the quality that may be lost, or max_deferred, the share passed on.",
        ),
        (lambda: calibrate_threshold([0.5], [1], [1], tolerance=-0.1), "tolerance must be at least 0, got -0.1."),
        (lambda: calibrate_threshold([0.5], [1], [1], max_deferred=2), "max_deferred must be from 0 to 1, got 2."),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence
