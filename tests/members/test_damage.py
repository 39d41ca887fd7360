import torch

from moesaic.members import check_numbers


def test_infinite_scores_are_no_damage():
    # A member may be sure of a token and rule another out; the sum of both alone would be NaN.
    check_numbers(["sure"], torch.tensor([[[float("inf"), 0.0], [float("-inf"), 0.0]]]))
