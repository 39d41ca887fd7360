import pytest
import torch

from moesaic.combiners import combine

# Two members, one token, two words: p_a = (0.9, 0.1), p_b = (0.5, 0.5).
MEMBER_LOGITS = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log().view(2, 1, 1, 2)
EQUAL = torch.tensor([0.5, 0.5])


def test_probability_space_averages_probabilities():
    # (0.9 + 0.5) / 2 = 0.7
    torch.testing.assert_close(combine(MEMBER_LOGITS, EQUAL, "probability").exp(), torch.tensor([[[0.7, 0.3]]]))


def test_log_probability_space_is_the_geometric_mean():
    # sqrt(0.9 * 0.5) : sqrt(0.1 * 0.5) = sqrt(0.45) : sqrt(0.05) = 3 : 1
    torch.testing.assert_close(combine(MEMBER_LOGITS, EQUAL, "log_probability").exp(), torch.tensor([[[0.75, 0.25]]]))


def test_logit_space_gives_the_distribution_of_log_probability_space():
    shifted = MEMBER_LOGITS + torch.tensor([3.0, -1.0]).view(2, 1, 1, 1)
    log_probability = combine(shifted, EQUAL, "log_probability")
    torch.testing.assert_close(combine(shifted, EQUAL, "logit").log_softmax(-1), log_probability)


def test_one_hot_weights_give_that_member():
    for space in ("probability", "log_probability", "logit"):
        chosen = combine(MEMBER_LOGITS, torch.tensor([0.0, 1.0]), space)
        torch.testing.assert_close(chosen, MEMBER_LOGITS[1])


def test_weights_may_differ_from_token_to_token():
    member_logits = torch.randn(2, 1, 2, 5)
    weights = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # (batch, position, member)
    combined = combine(member_logits, weights, "logit")
    torch.testing.assert_close(combined[0, 0], member_logits[0, 0, 0])
    torch.testing.assert_close(combined[0, 1], member_logits[1, 0, 1])


def test_a_weight_of_zero_has_finite_gradients():
    weights = torch.tensor([0.0, 1.0], requires_grad=True)
    combine(MEMBER_LOGITS, weights, "probability").sum().backward()
    assert torch.isfinite(weights.grad).all()


@pytest.mark.parametrize("space", ["prob", ""])
def test_an_unknown_space_is_refused(space):
    from moesaic.combiners import Average

    with pytest.raises(ValueError, match=r"^space must be one of probability, log_probability, logit, got '.*'\.$"):
        Average(space)
