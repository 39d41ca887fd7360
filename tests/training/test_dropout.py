import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moesaic.training import ByteDropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_the_share_is_dropped_and_the_expected_value_kept(dtype, share):
    torch.manual_seed(0)
    with ByteDropout():
        dropped = F.dropout(torch.ones(100_000, dtype=dtype), share)
    assert dropped.dtype == dtype
    assert (dropped == 0).double().mean().item() == pytest.approx(share, abs=0.005)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.02)
    assert len(dropped.unique()) == 2


def test_gradients_reach_what_was_kept_alone():
    torch.manual_seed(0)
    values = torch.randn(3, 7, requires_grad=True)  # whose numbers fill no whole integer
    with ByteDropout():
        dropped = nn.Dropout(0.5)(values)
    dropped.sum().backward()
    torch.testing.assert_close(dropped, values * values.grad)
    assert set(values.grad.unique().tolist()) == {0.0, 2.0}


def test_the_same_seed_drops_the_same():
    with ByteDropout():
        torch.manual_seed(3)
        first = F.dropout(torch.ones(50), 0.3)
        torch.manual_seed(3)
        assert torch.equal(F.dropout(torch.ones(50), 0.3), first)


@pytest.mark.parametrize(("share", "training"), [(0.4, False), (0.0, True), (1.0, True), (0.001, True)])
def test_what_no_byte_can_say_is_left_to_pytorch(share, training):
    values = torch.randn(1000)
    torch.manual_seed(0)
    expected = F.dropout(values, share, training)
    torch.manual_seed(0)
    with ByteDropout():
        assert torch.equal(F.dropout(values, share, training), expected)


def test_dropout_in_place_stays_in_place():
    values = torch.ones(100)
    with ByteDropout():
        F.dropout(values, 0.5, inplace=True)
    assert (values == 0).any()
