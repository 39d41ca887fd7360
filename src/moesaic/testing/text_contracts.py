"""The contract that every text combiner keeps, ours or yours: call :func:`check_text_combiner` in a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from moesaic.combiners import TextCombiner
from moesaic.data import train_tokenizer
from moesaic.members import CausalLM
from moesaic.testing.tiny import SENTENCES, tiny_causal_lm, tiny_tokenizer
from moesaic.text_mixture import TextMixture
from moesaic.types import Member, TextAnswer

_PROMPTS = ("the cat", "le chat dort sur", "def")
_GREEDY: dict[str, Any] = {"max_new_tokens": 6}
_SAMPLED: dict[str, Any] = {"max_new_tokens": 6, "num_candidates": 3, "temperature": 1.0, "seed": 7}
_TOLERANCE = 1e-5


def check_text_combiner(make: Callable[[], TextCombiner]) -> None:
    """Check all that a text combiner promises.

    One member gives that member's answer; identical members agree on it; every member has a weight, none is negative,
    and they sum to 1; reordering members reorders weights and changes no answer; prompts do not influence each other;
    the same seed repeats. Members are of different sizes, and one has a vocabulary of its own.

    Args:
        make: Makes the combiner, the same each time, for any number of members.

    Raises:
        AssertionError: Naming the promise that is not kept.
    """
    small, twin, large = _members()
    _check_one_member(make, large)
    _check_identical_members(make, small)
    for arguments in (_GREEDY, _SAMPLED):
        answers = _answer(make, [small, twin, large], arguments)
        _check_weights(answers)
        assert _answer(make, [small, twin, large], arguments) == answers, "the same seed does not repeat"
        _check_order(answers, _answer(make, [large, small, twin], arguments))
    answers = _answer(make, [small, twin, large], _GREEDY)
    alone = [answer for prompt in _PROMPTS for answer in _answer(make, [small, twin, large], _GREEDY, [prompt])]
    assert [answer.text for answer in alone] == [answer.text for answer in answers], "prompts influence each other"


def _members() -> tuple[CausalLM, CausalLM, CausalLM]:
    """A small member, a larger one that answers just the same, and a still larger one with another vocabulary."""
    shared, other = tiny_tokenizer(), train_tokenizer(SENTENCES, 270)
    small, twin = tiny_causal_lm(seed=1), tiny_causal_lm(num_hidden_layers=3)
    twin.load_state_dict(small.state_dict(), strict=False)
    last: Any = twin.get_submodule("model.layers.2")
    with torch.no_grad():
        # A layer that adds nothing.
        last.self_attn.o_proj.weight.zero_()
        last.mlp.down_proj.weight.zero_()
    large = tiny_causal_lm(seed=2, num_hidden_layers=4, vocab_size=len(other))
    return CausalLM("small", small, shared), CausalLM("twin", twin, shared), CausalLM("large", large, other)


def _answer(
    make: Callable[[], TextCombiner],
    members: Sequence[Member],
    arguments: dict[str, Any],
    prompts: Sequence[str] = _PROMPTS,
) -> list[TextAnswer]:
    return TextMixture(members, make()).generate(prompts, **arguments)


def _check_one_member(make: Callable[[], TextCombiner], member: CausalLM) -> None:
    for prompt, answer in zip(_PROMPTS, _answer(make, [member], _GREEDY), strict=True):
        assert answer.text == _plain_answer(member, prompt), "one member does not give that member's answer"
        assert answer.weights == {member.name: 1.0}, "one member does not have all the weight"


def _plain_answer(member: CausalLM, prompt: str) -> str:
    """What plain Transformers makes of it."""
    tokenizer: Any = member.tokenizer
    inputs = tokenizer(prompt, return_tensors="pt")["input_ids"]
    network: Any = member.network
    tokens = network.generate(
        inputs, attention_mask=torch.ones_like(inputs), do_sample=False, pad_token_id=0, **_GREEDY
    )
    return tokenizer.decode(tokens[0, inputs.shape[1] :], skip_special_tokens=True)


def _check_identical_members(make: Callable[[], TextCombiner], member: CausalLM) -> None:
    same = [CausalLM(name, member.network, member.tokenizer) for name in "abc"]
    for prompt, answer in zip(_PROMPTS, _answer(make, same, _GREEDY), strict=True):
        assert answer.text == _plain_answer(member, prompt), "identical members do not give that member's answer"


def _check_weights(answers: Sequence[TextAnswer]) -> None:
    for answer in answers:
        assert list(answer.weights) == ["small", "twin", "large"], "not every member has a weight"
        assert min(answer.weights.values()) >= 0, "a weight is negative"
        assert abs(sum(answer.weights.values()) - 1) < _TOLERANCE, "weights do not sum to 1"
        assert len(answer.scores) == len(answer.candidates), "not every candidate has a score"
        written = {(candidate.member, candidate.text) for candidate in answer.candidates}
        assert (answer.member, answer.text) in written, "the answer is not one that its member wrote"
        assert set(answer.asked) == {name for name, _ in written}, "who was asked is not who answered"


def _check_order(answers: Sequence[TextAnswer], reordered: Sequence[TextAnswer]) -> None:
    for answer, other in zip(answers, reordered, strict=True):
        assert other.text == answer.text, "reordering members changes the answer"
        for name, weight in answer.weights.items():
            assert abs(other.weights[name] - weight) < _TOLERANCE, "reordering members mixes weights up"
