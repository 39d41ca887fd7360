"""The contract that a combiner of classifiers keeps: call :func:`check_module_combiner` in a test of your own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.combiners import Combiner
from moesaic.members import ModuleMember
from moesaic.module_mixture import ModuleMixture

_NUM_INPUTS, _NUM_CLASSES = 4, 3
_TOLERANCE = 1e-5


def check_module_combiner(make: Callable[[], Combiner], *, learns: bool = False) -> None:
    """Check all that a combiner promises of classifiers.

    One member gives exactly that member; weights are non-negative; where they are to sum to 1 they do, and identical
    members then give that member; reordering members reorders weights; a member that is added is used, and leaves no
    trace when it is removed; an example is combined alike whatever stands beside it in the batch; saving and loading
    gives the same bits; making it twice gives the same bits.

    Args:
        make: Makes the combiner, the same each time, for any number of members. Its ``reads_tokens`` must be False.
        learns: Whether gradients of the cross-entropy must reach its parameters.

    Raises:
        AssertionError: Naming the promise that is not kept.
    """
    inputs = torch.randn(6, _NUM_INPUTS, generator=torch.Generator().manual_seed(7))
    _check_one_member(make, inputs)
    mixture = _mixture(make, (0, 1, 2))
    with torch.no_grad():
        output = mixture(inputs)
        weights = output.routing.weights
        assert weights.shape == (len(inputs), 3), "the routing has not one weight an example and member"
        assert (weights >= 0).all(), "a weight is negative"
        if mixture.combiner.weights_sum_to_one:
            _assert_close(weights.sum(-1), torch.ones(len(inputs)), "weights do not sum to 1")
            _check_identical_members(make, inputs)
        again = _mixture(make, (0, 1, 2))(inputs).logits
        assert torch.equal(again, output.logits), "made twice, it does not give the same bits"
        _check_order(make, inputs, mixture)
        _check_membership(mixture, inputs, output.logits)
        _assert_close(mixture(inputs[:2]).logits, output.logits[:2], "other examples of the batch change the output")
        _check_saving(mixture, inputs, output.logits)
    if learns:
        _check_gradients(mixture, inputs)


def _members(seeds: Sequence[int]) -> list[ModuleMember]:
    members = []
    for position, seed in enumerate(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            members.append(ModuleMember(f"member-{position}", nn.Linear(_NUM_INPUTS, _NUM_CLASSES)))
    return members


def _mixture(make: Callable[[], Combiner], seeds: Sequence[int]) -> ModuleMixture:
    return ModuleMixture(_members(seeds), make())


def _assert_close(actual: Tensor, expected: Tensor, promise: str) -> None:
    difference = (actual - expected).abs().max().item()
    assert difference < _TOLERANCE, f"{promise} (largest difference {difference:.2g})"


@torch.no_grad()
def _check_one_member(make: Callable[[], Combiner], inputs: Tensor) -> None:
    mixture = _mixture(make, (1,))
    expected = mixture.members[0](inputs).log_softmax(-1)
    _assert_close(mixture(inputs).logits.log_softmax(-1), expected, "one member does not give that member")


def _check_identical_members(make: Callable[[], Combiner], inputs: Tensor) -> None:
    mixture = _mixture(make, (1, 1, 1))
    expected = mixture.members[0](inputs).log_softmax(-1)
    _assert_close(mixture(inputs).logits.log_softmax(-1), expected, "identical members do not give that member")


def _check_order(make: Callable[[], Combiner], inputs: Tensor, mixture: ModuleMixture) -> None:
    order = [2, 0, 1]
    combiner = make()
    combiner.attach(3, _NUM_CLASSES)
    combiner.select(order)
    reordered, original = ModuleMixture(_members(order), combiner)(inputs), mixture(inputs)
    _assert_close(
        reordered.routing.weights, original.routing.weights[..., order], "reordering members mixes weights up"
    )
    _assert_close(reordered.logits, original.logits, "reordering members changes the output")


def _check_membership(mixture: ModuleMixture, inputs: Tensor, logits: Tensor) -> None:
    extended = mixture.add_member(ModuleMember("newcomer", _members((9,))[0].network))
    weights = extended(inputs).routing.weights
    assert weights.shape == (len(inputs), 4), "an added member has no weight"
    # One that asks a single member need not ask the newcomer.
    is_hard = (weights > 0).sum(-1).max() == 1
    assert is_hard or (weights[:, -1] > 0).any(), "an added member is never used"
    restored = extended.remove_member("newcomer")
    _assert_close(restored(inputs).logits, logits, "a member that comes and goes changes the output")


def _check_saving(mixture: ModuleMixture, inputs: Tensor, logits: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mixture.save_combiner(folder)
        loaded = ModuleMixture.load(folder, _members((0, 1, 2)), num_outputs=_NUM_CLASSES)
    assert torch.equal(loaded(inputs).logits, logits), "saved and loaded, it does not give the same bits"


def _check_gradients(mixture: ModuleMixture, inputs: Tensor) -> None:
    targets = torch.arange(len(inputs)) % _NUM_CLASSES
    F.cross_entropy(mixture(inputs).logits, targets).backward()
    for name, parameter in mixture.combiner.named_parameters():
        has_gradient = parameter.grad is not None and parameter.grad.abs().max() > 0
        assert has_gradient, f"no gradient reaches the combiner's {name}"
