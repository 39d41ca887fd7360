import math

import jaxtyping
import pytest
import torch

from moesaic.data import NOT_SCORED
from moesaic.tasks import next_token_loss, next_token_nats


def test_the_loss_counts_scored_tokens_alone():
    # Two words, of which the first has odds of 3 to 1: -log 3/4 and -log 1/4.
    logits = torch.tensor([[[math.log(3.0), 0.0]] * 3])
    labels = torch.tensor([[0, 1, NOT_SCORED]])
    torch.testing.assert_close(next_token_nats(logits, labels), torch.tensor([[0.28768, 1.38629, 0.0]]))
    assert next_token_loss(logits, labels).item() == pytest.approx((0.28768 + 1.38629) / 2, abs=1e-5)


def test_shapes_in_signatures_are_checked_while_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError):
        next_token_nats(torch.zeros(2, 3, 4), torch.zeros((2, 5), dtype=torch.long))
