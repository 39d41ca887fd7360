import pytest
import torch
from experts.reference import relative_error
from torch import nn

from moesaic.experts import fast_decoding, grouped
from moesaic.experts.decoding import FEW_ROWS, FewRowsLinear
from moesaic.testing import tiny_causal_lm, tiny_mixtral

pytestmark = pytest.mark.skipif(
    not grouped.is_available() or grouped.instruction_set() == grouped.InstructionSet.PORTABLE,
    reason="the native kernels were not built, or not for this processor",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(1, 64, 32), (3, 50, 33), (FEW_ROWS, 300, 7)])
def test_few_rows_give_the_product(dtype, sizes):
    num_rows, length, columns = sizes
    torch.manual_seed(0)
    layer = nn.Linear(length, columns, bias=False).to(dtype)
    rows = torch.randn(num_rows, 1, length).to(dtype)
    with torch.no_grad(), fast_decoding(layer):
        assert type(layer) is FewRowsLinear
        output = layer(rows)
    expected = rows.double() @ layer.weight.double().T
    assert output.shape == (num_rows, 1, columns) and output.dtype == dtype
    assert relative_error(output, expected) < {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]


@torch.no_grad()
def test_rows_of_a_larger_tensor_give_the_product():
    layer = nn.Linear(32, 16, bias=False)
    last = torch.randn(3, 5, 32)[:, -1:]
    expected = layer(last)
    with fast_decoding(layer):
        torch.testing.assert_close(layer(last), expected)


@pytest.mark.parametrize("make", [tiny_mixtral, tiny_causal_lm])
@pytest.mark.parametrize(
    "tokens", [torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7], [8, 9, 4]])], ids=["one", "two"]
)
def test_a_model_generates_the_same_text(make, tokens):
    network = make()
    expected = network.generate(tokens, max_new_tokens=12, do_sample=False)
    with fast_decoding(network):
        assert torch.equal(network.generate(tokens, max_new_tokens=12, do_sample=False), expected)


def test_many_rows_and_training_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(grouped, "multiply_rows", lambda *_, **__: pytest.fail("not for these"))
    layer = nn.Linear(16, 16, bias=False)
    with fast_decoding(layer):
        layer(torch.randn(1, 16)).sum().backward()
        with torch.no_grad():
            layer(torch.randn(FEW_ROWS + 1, 16))
    assert layer.weight.grad is not None


def test_afterwards_the_layers_are_what_they_were():
    network = tiny_mixtral()
    names = list(network.state_dict())
    with pytest.raises(RuntimeError, match="stop"), fast_decoding(network):
        assert list(network.state_dict()) == names
        raise RuntimeError("stop")
    assert type(network.lm_head) is nn.Linear


def test_layers_with_a_bias_stay_as_they_are():
    layer = nn.Linear(8, 8)
    with torch.no_grad(), fast_decoding(layer):
        rows = torch.randn(2, 8)
        torch.testing.assert_close(layer(rows), nn.functional.linear(rows, layer.weight, layer.bias))
