"""The contract that a router of modules keeps: call :func:`check_router` in a test of your own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.members import ModuleMember
from moesaic.routed_mixture import RoutedMixture

_NUM_CLASSES = 3
_TOLERANCE = 1e-5


def check_router(make: Callable[[int], nn.Module], inputs: Tensor) -> None:
    """Check all that a router promises a :class:`moesaic.routed_mixture.RoutedMixture`.

    With one member it gives exactly that member; identical members give that member, however many are asked; weights
    are non-negative and sum to 1; asking as many as there are is asking all; a row is routed alike whatever stands
    beside it; saving and loading gives the same bits; making it twice gives the same bits; gradients of the
    cross-entropy reach it.

    Args:
        make: Makes the router for a number of members, the same each time.
        inputs: At least two rows that it and linear members can read, ``(row, feature)``.

    Raises:
        AssertionError: Naming the promise that is not kept.
    """
    members = _members(inputs, (0, 1, 2))
    for top_k in (1, 2, None):
        _check_identical_members(make, inputs, top_k)
        mixture = RoutedMixture(members, make(3), top_k=top_k).eval()
        with torch.no_grad():
            output = mixture(inputs)
            weights = output.routing.weights
            assert (weights >= 0).all(), "a weight is negative"
            _assert_close(weights.sum(-1), torch.ones(len(inputs)), "weights do not sum to 1")
            again = RoutedMixture(members, make(3), top_k=top_k).eval()(inputs)
            assert torch.equal(again.logits, output.logits), "made twice, it does not give the same bits"
            _assert_close(mixture(inputs[:2]).logits, output.logits[:2], "other rows of the batch change the output")
    everybody, dense = (RoutedMixture(members, make(3), top_k=top_k).eval()(inputs).logits for top_k in (3, None))
    _assert_close(everybody, dense, "asking as many members as there are is not asking all")
    _check_gradients(RoutedMixture(members, make(3)), inputs)
    _check_saving(RoutedMixture(members, make(3), top_k=2).eval(), make, inputs)


def _members(inputs: Tensor, seeds: tuple[int, ...]) -> list[ModuleMember]:
    members = []
    for position, seed in enumerate(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            members.append(ModuleMember(f"member-{position}", nn.Linear(inputs.shape[1], _NUM_CLASSES)))
    return members


def _assert_close(actual: Tensor, expected: Tensor, promise: str) -> None:
    difference = (actual - expected).abs().max().item()
    assert difference < _TOLERANCE, f"{promise} (largest difference {difference:.2g})"


@torch.no_grad()
def _check_identical_members(make: Callable[[int], nn.Module], inputs: Tensor, top_k: int | None) -> None:
    for seeds, promise in (((1,), "one member does not"), ((1, 1, 1), "identical members do not")):
        members = _members(inputs, seeds)
        asked = None if top_k is None else min(top_k, len(seeds))
        logits = RoutedMixture(members, make(len(seeds)), top_k=asked).eval()(inputs).logits
        _assert_close(logits, members[0].network(inputs).log_softmax(-1), f"{promise} give that member")


@torch.no_grad()
def _check_saving(mixture: RoutedMixture, make: Callable[[int], nn.Module], inputs: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mixture.save_router(folder)
        loaded = RoutedMixture.load(folder, _members(inputs, (0, 1, 2)), make(3)).eval()
    same = torch.equal(loaded(inputs).logits, mixture(inputs).logits)
    assert same, "saved and loaded, it does not give the same bits"


def _check_gradients(mixture: RoutedMixture, inputs: Tensor) -> None:
    F.cross_entropy(mixture(inputs).logits, torch.arange(len(inputs)) % _NUM_CLASSES).backward()
    gradients = [parameter.grad for parameter in mixture.router.parameters() if parameter.grad is not None]
    assert any(gradient.abs().max() > 0 for gradient in gradients), "no gradient reaches the router"
