import sys

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from moesaic.data import NOT_SCORED
from moesaic.tasks import linear_cross_entropy

MODULE = sys.modules["moesaic.tasks.linear_cross_entropy"]
TOKENS, HIDDEN, VOCAB = 21, 8, 13


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 4 tokens: the last of 21 tokens has one alone."""
    monkeypatch.setattr(MODULE, "CHUNK_LOGITS", 4 * VOCAB)
    monkeypatch.setattr(MODULE, "LEAST_TOKENS", 4)


def arguments(dtype=torch.float32, *, with_bias=False):
    draw = torch.Generator().manual_seed(0)
    shapes = {"hidden_states": (TOKENS, HIDDEN), "weight": (VOCAB, HIDDEN)} | ({"bias": (VOCAB,)} if with_bias else {})
    tensors = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }
    labels = torch.randint(VOCAB, (TOKENS,), generator=draw)
    labels[[0, 7, 20]] = NOT_SCORED
    return tensors, labels


def plain(hidden_states, weight, labels, bias=None):
    return F.cross_entropy(F.linear(hidden_states, weight, bias).float(), labels, ignore_index=NOT_SCORED)


def exact(hidden_states, weight, labels, bias=None):
    return F.cross_entropy(F.linear(hidden_states, weight, bias), labels, ignore_index=NOT_SCORED)


def chunked(hidden_states, weight, labels, bias=None):
    return linear_cross_entropy(hidden_states, weight, labels, bias=bias)


def loss_and_gradients(loss, tensors, labels, upstream=1.0):
    value = loss(**tensors, labels=labels)
    needed = [tensor for tensor in tensors.values() if tensor.requires_grad]
    return [value.detach(), *torch.autograd.grad(value * upstream, needed)]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("upstream", [1.0, -2.5])
def test_loss_and_gradients_are_those_of_the_whole_cross_entropy(with_bias, upstream):
    tensors, labels = arguments(torch.float64, with_bias=with_bias)
    ours = loss_and_gradients(chunked, tensors, labels, upstream)
    torch.testing.assert_close(ours, loss_and_gradients(exact, tensors, labels, upstream), rtol=1e-12, atol=1e-14)


def test_the_gradients_are_those_of_small_differences():
    tensors, labels = arguments(torch.float64, with_bias=True)
    torch.autograd.gradcheck(lambda *given: chunked(*given[:2], labels, given[2]), tuple(tensors.values()))


def test_float32_differs_by_rounding_alone():
    tensors, labels = arguments()
    ours = loss_and_gradients(chunked, tensors, labels)
    torch.testing.assert_close(ours, loss_and_gradients(plain, tensors, labels), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_sixteen_bits_have_losses_in_float32(dtype):
    tensors, labels = arguments(dtype, with_bias=True)
    ours, theirs = (loss_and_gradients(loss, tensors, labels) for loss in (chunked, plain))
    assert [tensor.dtype for tensor in ours] == [torch.float32, dtype, dtype, dtype]
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_multiplies_in_its_type_and_gives_gradients_in_the_arguments(dtype):
    tensors, labels = arguments()
    with torch.autocast("cpu", dtype):
        ours, theirs = (loss_and_gradients(loss, tensors, labels) for loss in (chunked, plain))
    assert {tensor.dtype for tensor in ours} == {torch.float32}
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=0.02, atol=1e-3)
    unlike = loss_and_gradients(chunked, tensors, labels)[0]
    assert ours[0] != unlike  # the products were rounded, as asked


def test_the_number_of_tokens_is_not_rounded():
    # 1 / 18 in bfloat16 is 0.2 % too large; rounding errors of single gradients cancel, an error common to all stays.
    tensors, labels = arguments()
    wanted = loss_and_gradients(plain, tensors, labels)[1]
    with torch.autocast("cpu", torch.bfloat16):
        gradient = loss_and_gradients(chunked, tensors, labels)[1]
    assert (gradient * wanted).sum() / wanted.square().sum() == pytest.approx(1, abs=1e-3)


def test_many_tokens_in_float16_do_not_vanish(monkeypatch):
    # The share of one token in the mean, 1 / 100,000, times a probability of about 1 / 13: a subnormal of float16.
    monkeypatch.setattr(MODULE, "CHUNK_LOGITS", 2**16)
    hidden_states = torch.ones(100_000, 1, dtype=torch.float16, requires_grad=True)
    weight = torch.zeros(VOCAB, 1, dtype=torch.float16, requires_grad=True)
    linear_cross_entropy(hidden_states, weight, torch.zeros(100_000, dtype=torch.long)).backward()
    torch.testing.assert_close(weight.grad[1:], torch.full_like(weight[1:], 1 / 13), rtol=2e-3, atol=0)


def test_what_is_frozen_gets_no_gradient():
    for frozen in ("hidden_states", "weight", "bias"):
        tensors, labels = arguments(torch.float64, with_bias=True)
        tensors[frozen].requires_grad_(False)
        ours, theirs = (loss_and_gradients(loss, tensors, labels) for loss in (chunked, exact))
        torch.testing.assert_close(ours, theirs)


class Made(TorchDispatchMode):
    """Keeps the shapes of all that is made."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.shapes.append(tuple(tensor.shape))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_all_logits_is_made(dtype):
    tensors, labels = arguments(dtype)
    with Made() as made:
        linear_cross_entropy(**tensors, labels=labels).backward()
    assert (4, VOCAB) in made.shapes
    assert max(torch.Size(shape).numel() for shape in made.shapes) == TOKENS * HIDDEN


def test_a_frozen_weight_costs_nothing():
    tensors, labels = arguments()
    tensors["weight"].requires_grad_(False)
    with Made() as made:
        linear_cross_entropy(**tensors, labels=labels).backward()
    # The weight's own shape is that of its gradient; (HIDDEN, VOCAB) is a view of it.
    assert (VOCAB, HIDDEN) not in made.shapes


def test_without_gradients_there_is_the_loss_alone():
    tensors, labels = arguments()
    with torch.no_grad(), Made() as made:
        loss = linear_cross_entropy(**tensors, labels=labels)
    assert not loss.requires_grad
    assert loss == linear_cross_entropy(**tensors, labels=labels)
    assert (TOKENS, HIDDEN) not in made.shapes and (VOCAB, HIDDEN) not in made.shapes


def test_a_weight_tied_with_the_embedding_gets_both_gradients():
    labels = torch.tensor([1, 2, 3, 0, 5])
    gradients = []
    for loss in (exact, chunked):
        weight = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weight.requires_grad_()
        loss(F.embedding(torch.tensor([0, 1, 2, 3, 0]), weight), weight, labels).backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_backward_twice_gives_the_same_gradients():
    tensors, labels = arguments()
    loss = chunked(**tensors, labels=labels)
    first, second = (
        torch.autograd.grad(2 * loss, list(tensors.values()), retain_graph=True),
        torch.autograd.grad(2 * loss, list(tensors.values())),
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_nothing_scored_is_not_a_number_as_in_pytorch():
    tensors, labels = arguments()
    nothing = torch.full_like(labels, NOT_SCORED)
    assert chunked(**tensors, labels=nothing).isnan() and plain(**tensors, labels=nothing).isnan()
    assert chunked(tensors["hidden_states"][:0], tensors["weight"], labels[:0]).isnan()


def test_improbable_labels_and_excluded_words_have_finite_losses():
    # The label is 200 below the largest logit: its probability is 0 in float32, its loss 200 nats all the same.
    hidden_states, weight = torch.ones(2, 1), torch.tensor([[0.0], [-200.0], [-torch.inf]])
    labels = torch.tensor([1, 0])
    assert linear_cross_entropy(hidden_states, weight, labels).item() == pytest.approx(100.0)


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_labels_are_smoothed_as_pytorch_smooths_them(smoothing):
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    bias, labels = torch.randn(30, requires_grad=True), torch.randint(30, (9,))
    labels[4] = NOT_SCORED
    loss = linear_cross_entropy(hidden, weight, labels, bias=bias, label_smoothing=smoothing)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, (hidden, weight, bias))
    torch.testing.assert_close(found, torch.autograd.grad(expected, (hidden, weight, bias)))
