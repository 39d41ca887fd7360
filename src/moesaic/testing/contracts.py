"""The contract that every combiner keeps, ours or yours: call :func:`check_combiner` in a test of your own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

from moesaic.combiners import Combiner
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.testing.tiny import tiny_causal_lm

_TOKENS = torch.tensor([[5, 17, 8, 42, 9, 3], [11, 2, 7, 7, 90, 61]])
_TOLERANCE = 1e-5


def check_combiner(make: Callable[[], Combiner], *, learns: bool = False, min_members: int = 1) -> None:
    """Check all that a combiner promises.

    One member gives exactly that member; weights are non-negative; where they are to sum to 1 they do, and identical
    members then give that member; reordering members reorders weights; padding changes nothing; a prefix is combined
    alike whatever follows; a member that is added is used, and leaves no trace when it is removed; a cache changes
    nothing; saving and loading gives the same bits; making it twice gives the same bits.

    Args:
        make: Makes the combiner, the same each time, for any number of members.
        learns: Whether gradients of the language-model loss must reach its parameters while it trains.
        min_members: How many members it needs, from 1 to 3, such as its ``top_k``; with fewer it is not asked.

    Raises:
        AssertionError: Naming the promise that is not kept.
    """
    if min_members == 1:
        _check_one_member(make)
    mixture = _mixture(make, 3)
    is_mean = mixture.combiner.weights_sum_to_one
    if is_mean:
        _check_identical_members(make)
    with torch.no_grad():
        output = mixture(_TOKENS)
    weights = output.routing.weights
    assert (weights >= 0).all(), "a weight is negative"
    if is_mean:
        _assert_close(weights.sum(-1), torch.ones(_TOKENS.shape), "weights do not sum to 1")
    assert torch.equal(_mixture(make, 3)(_TOKENS).logits, output.logits), "made twice, it does not give the same bits"
    _check_order(make, mixture)
    _check_membership(mixture, output.logits)
    _check_causality(mixture, output.logits)
    _check_padding(mixture, output.logits)
    _check_cache(mixture, output.logits)
    _check_saving(mixture, output.logits)
    if learns:
        _check_gradients(make)


def _mixture(make: Callable[[], Combiner], num_members: int) -> Mixture:
    members = [CausalLM(f"member-{seed}", tiny_causal_lm(seed=seed)) for seed in range(num_members)]
    return Mixture(members, make()).eval()


def _assert_close(actual: Tensor, expected: Tensor, promise: str) -> None:
    difference = (actual - expected).abs().max().item()
    assert difference < _TOLERANCE, f"{promise} (largest difference {difference:.2g})"


@torch.no_grad()
def _check_one_member(make: Callable[[], Combiner]) -> None:
    network = tiny_causal_lm(seed=1)
    mixture = Mixture([CausalLM("only", network)], make())
    expected = network(_TOKENS).logits.log_softmax(-1)
    _assert_close(mixture(_TOKENS).logits.log_softmax(-1), expected, "one member does not give that member")


@torch.no_grad()
def _check_identical_members(make: Callable[[], Combiner]) -> None:
    mixture = Mixture([CausalLM(name, tiny_causal_lm(seed=1)) for name in "abc"], make())
    expected = tiny_causal_lm(seed=1)(_TOKENS).logits.log_softmax(-1)
    _assert_close(mixture(_TOKENS).logits.log_softmax(-1), expected, "identical members do not give that member")


@torch.no_grad()
def _check_order(make: Callable[[], Combiner], mixture: Mixture) -> None:
    order = [2, 0, 1]
    members = [CausalLM(f"member-{seed}", tiny_causal_lm(seed=seed)) for seed in order]
    combiner = make()
    combiner.attach(3, mixture.config.vocab_size)
    combiner.select(order)
    reordered, original = Mixture(members, combiner).eval()(_TOKENS), mixture(_TOKENS)
    _assert_close(
        reordered.routing.weights, original.routing.weights[..., order], "reordering members mixes weights up"
    )
    _assert_close(reordered.logits, original.logits, "reordering members changes the output")


@torch.no_grad()
def _check_membership(mixture: Mixture, logits: Tensor) -> None:
    extended = mixture.add_member(CausalLM("newcomer", tiny_causal_lm(seed=9))).eval()
    weights = extended(_TOKENS).routing.weights
    assert weights.shape[-1] == len(mixture.members) + 1, "an added member has no weight"
    # One that asks a single member takes the best; a newcomer with the others' mean score is that only when trained.
    is_hard = (weights > 0).sum(-1).max() == 1
    assert is_hard or (weights[..., -1] > 0).any(), "an added member is never used"
    if extended.combiner.weights_sum_to_one:
        _assert_close(weights.sum(-1), torch.ones(_TOKENS.shape), "with an added member, weights do not sum to 1")
    _check_saving(extended, extended(_TOKENS).logits)
    restored = extended.remove_member("newcomer").eval()
    _assert_close(restored(_TOKENS).logits, logits, "a member that comes and goes changes the output")
    assert torch.equal(mixture(_TOKENS).logits, logits), "adding a member to a copy changes the mixture"


@torch.no_grad()
def _check_causality(mixture: Mixture, logits: Tensor) -> None:
    _assert_close(mixture(_TOKENS[:, :4]).logits, logits[:, :4], "what follows a prefix changes how it is combined")


@torch.no_grad()
def _check_padding(mixture: Mixture, logits: Tensor) -> None:
    padding = torch.zeros((len(_TOKENS), 3), dtype=torch.long)
    for name, parts in {"left": (padding, _TOKENS), "right": (_TOKENS, padding)}.items():
        mask = torch.cat([torch.ones_like(part) if part is _TOKENS else part for part in parts], dim=1)
        padded = mixture(torch.cat(parts, dim=1), attention_mask=mask).logits
        real = padded[:, 3:] if name == "left" else padded[:, :-3]
        _assert_close(real, logits, f"padding on the {name} changes the output")


@torch.no_grad()
def _check_cache(mixture: Mixture, logits: Tensor) -> None:
    first = mixture(_TOKENS[:, :3], use_cache=True)
    pieces, cache = [first.logits], first.past_key_values
    for position in range(3, _TOKENS.shape[1]):
        output = mixture(_TOKENS[:, position : position + 1], past_key_values=cache, use_cache=True)
        pieces.append(output.logits)
        cache = output.past_key_values
    _assert_close(torch.cat(pieces, dim=1), logits, "the cache changes the output")


@torch.no_grad()
def _check_saving(mixture: Mixture, logits: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mixture.save_pretrained(folder)
        loaded = Mixture.from_pretrained(folder).eval()
    assert torch.equal(loaded(_TOKENS).logits, logits), "saved and loaded, it does not give the same bits"
    assert loaded.member_names == mixture.member_names, "saved and loaded, it forgets its members' names"


def _check_gradients(make: Callable[[], Combiner]) -> None:
    mixture = _mixture(make, 3).train()
    mixture(_TOKENS, labels=_TOKENS).loss.backward()
    for name, parameter in mixture.combiner.named_parameters():
        has_gradient = parameter.grad is not None and parameter.grad.abs().max() > 0
        assert has_gradient, f"no gradient reaches the combiner's {name}"
