import pytest
import torch
from experts.reference import METHODS, random_layer, relative_error, swiglu_reference
from hypothesis import given, settings
from hypothesis import strategies as st

from moesaic.experts import grouped, operators
from moesaic.experts.functions import TrainedParts, combine_rows, expert_rows, swiglu_experts
from moesaic.experts.grouped import InstructionSet

ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest relative error that a type is allowed, in the output and in every gradient."""


@pytest.fixture(params=METHODS, ids=lambda method: method.__name__.rpartition(".")[2])
def method(request, monkeypatch):
    """Each of the modules that multiply, for types that it supports."""
    chosen = operators.choose_method

    def choose(dtype, *sizes):
        return request.param if dtype != torch.float64 else chosen(dtype, *sizes)

    monkeypatch.setattr(operators, "choose_method", choose)
    return request.param


def reference(layer, gradient, dtype):
    """The output and all gradients of the sum over experts, computed in a type."""
    index = layer[3]
    states, gate_up, down, weights = (
        tensor.detach().to(dtype).requires_grad_() for tensor in layer if tensor.is_floating_point()
    )
    output = swiglu_reference(states, gate_up, down, index, weights)
    return output, *torch.autograd.grad(output, (states, gate_up, down, weights), gradient.to(dtype))


def rounded(layer, dtype):
    """A layer in float64 whose numbers are each off by as much as the type's rounding may add or take."""
    step = torch.finfo(dtype).eps / 2
    return tuple(
        tensor.double() * (1 + step * torch.randint(-1, 2, tensor.shape)) if tensor.is_floating_point() else tensor
        for tensor in layer
    )


def errors_of(layer, *, dtype, gradient=None):
    """Relative errors of the output and of all gradients against the same sums in float64."""
    states, gate_up, down, index, weights = layer
    output = swiglu_experts(states, gate_up, down, index, weights, dtype=dtype)
    gradient = torch.randn_like(output) if gradient is None else gradient
    results = (output, *torch.autograd.grad(output, (states, gate_up, down, weights), gradient))
    expected = reference(layer, gradient, torch.float64)
    return [relative_error(result, truth) for result, truth in zip(results, expected, strict=True)]


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("sizes", [(40, 64, 96, 4, 2), (300, 256, 192, 3, 1), (7, 50, 30, 5, 3), (70, 600, 17, 2, 2)])
def test_output_and_gradients_equal_the_sum_over_experts(method, dtype, sizes):
    layer = random_layer(*sizes, dtype=dtype)
    assert max(errors_of(layer, dtype=dtype)) < ROUNDING[dtype]


@pytest.mark.skipif(not grouped.is_available(), reason="the native kernels were not built: there is no C++ compiler")
@pytest.mark.parametrize("wanted", list(InstructionSet), ids=lambda wanted: wanted.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set_of_this_processor_gives_the_same_sums(wanted, dtype, monkeypatch):
    before = grouped.use_instruction_set(wanted)
    try:
        if grouped.instruction_set() != wanted:
            pytest.skip(f"this processor has no {wanted.name}")
        monkeypatch.setattr(operators, "choose_method", lambda *_: grouped)
        for sizes in [(90, 70, 40, 3, 2), (300, 300, 64, 2, 1)]:
            assert max(errors_of(random_layer(*sizes, dtype=dtype), dtype=dtype)) < ROUNDING[dtype]
    finally:
        grouped.use_instruction_set(before)


def test_gradients_are_those_of_finite_differences():
    layer = random_layer(5, 6, 4, 3, 2, dtype=torch.float64)
    index = layer[3]
    inputs = tuple(tensor for tensor in layer if tensor.is_floating_point())

    def call(states, gate_up, down, weights):
        return swiglu_experts(states, gate_up, down, index, weights, dtype=torch.float64)

    def call_in_two_steps(states, gate_up, down, weights):
        rows = expert_rows(states, gate_up, index, dtype=torch.float64).tanh()[:, :4]
        return combine_rows(rows, down, index, dtype=torch.float64) * weights.sum()

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradcheck(call_in_two_steps, inputs)


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(0, 70),
    hidden=st.integers(1, 70),
    half=st.integers(1, 40),
    num_experts=st.integers(1, 6),
    top_k=st.integers(1, 4),
    skew=st.sampled_from(["any", "one expert", "sentinels only"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_any_choice_gives_the_sum(num_tokens, hidden, half, num_experts, top_k, skew, dtype, seed):
    """Choices may name an expert twice, and sentinels; experts may have no row, and there may be no token at all."""
    torch.manual_seed(seed)
    states, gate_up, down, _, weights = random_layer(num_tokens, hidden, half, num_experts, 1, dtype=dtype, seed=seed)
    weights = torch.rand(num_tokens, top_k).to(dtype).requires_grad_()
    index = {
        "any": torch.randint(0, num_experts + 1, (num_tokens, top_k)),
        "one expert": torch.full((num_tokens, top_k), num_experts - 1),
        "sentinels only": torch.full((num_tokens, top_k), num_experts),
    }[skew]
    layer = (states, gate_up, down, index, weights)
    # Terms may cancel, and then no sum in the type is exact. How far off one may be is said by PyTorch's own and, as
    # that may be right by luck, by what becomes of the exact sum when its terms are rounded.
    gradient = torch.ones_like(states)
    exact = reference(layer, gradient, torch.float64)
    own, *of_rounded = (
        max(relative_error(*pair) for pair in zip(results, exact, strict=True))
        for results in (
            reference(layer, gradient, dtype),
            *(reference(rounded(layer, dtype), gradient, torch.float64) for _ in range(8)),
        )
    )
    assert max(errors_of(layer, dtype=dtype, gradient=gradient)) < max(ROUNDING[dtype], 4 * own, *of_rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transposed_weights_are_read_as_they_lie(method, dtype):
    states, gate_up, down, index, weights = random_layer(60, 48, 40, 4, 2, dtype=dtype)
    expected = swiglu_experts(states, gate_up, down, index, weights, dtype=dtype)
    swapped = [weight.detach().transpose(1, 2).contiguous().requires_grad_() for weight in (gate_up, down)]
    output = swiglu_experts(states, *swapped, index, weights, dtype=dtype, is_transposed=True)
    torch.testing.assert_close(output, expected)
    wanted = torch.autograd.grad(expected.sum(), (gate_up, down))
    given = torch.autograd.grad(output.sum(), swapped)
    for gradient, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(gradient.transpose(1, 2), other)


@pytest.mark.parametrize("weights_type", [torch.float32, torch.bfloat16])
def test_weights_of_one_type_are_multiplied_in_another(method, weights_type):
    """As under autocast: float32 weights, multiplied in bfloat16; gradients have the weights' own types."""
    layer = random_layer(50, 64, 48, 4, 2, dtype=weights_type)
    assert max(errors_of(layer, dtype=torch.bfloat16)) < ROUNDING[torch.bfloat16]


def test_the_same_input_gives_the_same_bits(method):
    def run():
        states, gate_up, down, index, weights = random_layer(200, 64, 48, 4, 2)
        output = swiglu_experts(states, gate_up, down, index, weights, dtype=torch.float32)
        return output, *torch.autograd.grad(output.square().sum(), (states, gate_up, down, weights))

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("num_tokens", [4, 100])
def test_a_nan_touches_the_output_of_its_token_only(method, num_tokens):
    states, gate_up, down, index, weights = random_layer(num_tokens, 64, 48, 4, 2)
    broken = states.detach().clone()
    broken[1] = float("nan")
    with torch.no_grad():
        whole = swiglu_experts(states, gate_up, down, index, weights, dtype=torch.float32)
        output = swiglu_experts(broken, gate_up, down, index, weights, dtype=torch.float32)
    assert output[1].isnan().all()
    others = torch.arange(num_tokens) != 1
    assert torch.equal(output[others], whole[others])


@pytest.mark.parametrize("num_tokens", [3, 60])
def test_what_an_earlier_call_left_in_memory_does_not_matter(method, num_tokens):
    states, gate_up, down, index, weights = random_layer(num_tokens, 40, 20, 3, 2)
    swapped = [weight.detach().transpose(1, 2).contiguous().requires_grad_() for weight in (gate_up, down)]

    def gradients():
        output = swiglu_experts(states, *swapped, index, weights, dtype=torch.float32, is_transposed=True)
        return torch.autograd.grad(output.sum(), (states, *swapped, weights))

    before = gradients()
    nothing = torch.full((200, 40), float("nan"), requires_grad=True)
    broken = swiglu_experts(nothing, gate_up, down, index[:1].expand(200, 2), torch.ones(200, 2), dtype=torch.float32)
    torch.autograd.grad(broken.sum(), nothing)
    for first, second in zip(before, gradients(), strict=True):
        assert torch.equal(first, second)


def test_an_expert_without_tokens_has_a_gradient_of_zero(method):
    states, gate_up, down, index, weights = random_layer(30, 16, 24, 4, 2)
    output = swiglu_experts(states, gate_up, down, index.clamp_max(2), weights, dtype=torch.float32)
    for gradient in torch.autograd.grad(output.sum(), (gate_up, down)):
        assert gradient[3].count_nonzero() == 0
        assert gradient[0].count_nonzero() > 0


def test_only_what_needs_a_gradient_gets_one(method):
    states, gate_up, down, index, weights = random_layer(30, 16, 24, 4, 2)
    frozen = (gate_up.detach(), down.detach())
    output = swiglu_experts(states.detach(), *frozen, index, weights, dtype=torch.float32)
    (of_weights,) = torch.autograd.grad(output.sum(), (weights,))
    expected = swiglu_experts(states, gate_up, down, index, weights, dtype=torch.float32)
    torch.testing.assert_close(of_weights, torch.autograd.grad(expected.sum(), (weights,))[0])


def test_trained_parts_get_the_gradient_of_their_experts(method):
    states, gate_up, down, index, weights = random_layer(40, 16, 24, 4, 2)
    gate_ups, downs = ([weight.detach()[e].requires_grad_() for e in (2, 0)] for weight in (gate_up, down))
    parts = TrainedParts([2, 0], gate_ups, downs)
    frozen = (gate_up.detach(), down.detach())
    output = swiglu_experts(states, *frozen, index, weights, dtype=torch.float32, trained=parts)
    given = torch.autograd.grad(output.sum(), (*parts.gate_up_proj, *parts.down_proj))
    full = swiglu_experts(states, gate_up, down, index, weights, dtype=torch.float32)
    of_gate_up, of_down = torch.autograd.grad(full.sum(), (gate_up, down))
    for gradient, expected in zip(given, (of_gate_up[2], of_gate_up[0], of_down[2], of_down[0]), strict=True):
        torch.testing.assert_close(gradient, expected)


def test_a_negative_id_is_refused(method):
    states, gate_up, down, index, weights = random_layer(3, 16, 24, 4, 2)
    index[1, 0] = -2
    message = r"^top_k_index has the id -2; experts are 0 to 3, and 4 marks a choice that is left out\.$"
    with pytest.raises(ValueError, match=message):
        swiglu_experts(states, gate_up, down, index, weights, dtype=torch.float32)
