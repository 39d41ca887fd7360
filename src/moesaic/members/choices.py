"""Which of several answers a member finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from moesaic.members.writing import answer_tokens, prompt_tokens, score_candidates
from moesaic.types import Candidate, Member

ChoiceNormalization = Literal["none", "tokens", "bytes"]
"""What the log-probability of a choice is divided by: nothing, its number of tokens, or its bytes of UTF-8.

Undivided, long choices have less of a chance. Bytes do not depend on a member's tokenizer, tokens do.
"""


def score_choices(
    member: Member,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    normalization: ChoiceNormalization = "none",
    separator: str = " ",
    batch_size: int = 16,
) -> Float[Tensor, "question choice"]:
    """How likely a member finds each choice after its prompt; the highest is its answer.

    The scores are class scores, so :func:`moesaic.arena.score_classifier` measures them: accuracy, and precision,
    recall and F1 as means over classes, which say something where the choices are the same for all questions.

    Args:
        member: A causal model, or a mixture of some, with a tokenizer.
        prompts: What comes before.
        choices: The choices of each prompt; their number may differ.
        normalization: What log-probabilities are divided by; the separator's bytes do not count.
        separator: What stands between prompt and choice, and is scored with the choice.
        batch_size: Choices scored at once.

    Returns:
        ``log p(choice | prompt)``, divided as asked for, in nats; minus infinity after the last choice of a prompt.

    Raises:
        MemberError: If the member gives NaN.
        ValueError: If the normalization is none of these, a prompt has no choice, or a choice is empty.

    Example:
        >>> from moesaic.members import CausalLM
        >>> from moesaic.testing import tiny_causal_lm, tiny_tokenizer
        >>> member = CausalLM("tiny", tiny_causal_lm(), tiny_tokenizer())
        >>> score_choices(member, ["the cat sat?", "la?"], [["yes", "no"], ["oui", "non", "si"]]).shape
        torch.Size([2, 3])

    Reference: Brown et al. (2020), section 2.4, https://arxiv.org/abs/2005.14165; Gao et al., lm-evaluation-harness,
    whose ``acc_norm`` divides by characters
    """
    check_choices(prompts, choices, normalization)
    candidates = [[_candidate(separator + choice) for choice in given] for given in choices]
    log_probabilities = score_candidates(member, prompts, candidates, batch_size=batch_size)
    scores = torch.full((len(prompts), max(map(len, choices), default=0)), -torch.inf)
    for row, (prompt, given) in enumerate(zip(prompts, choices, strict=True)):
        if normalization == "tokens":
            [context] = prompt_tokens(member, [prompt])
            sizes = [len(answer_tokens(member, prompt, context, candidate)) for candidate in candidates[row]]
        else:
            sizes = [len(choice.encode()) if normalization == "bytes" else 1 for choice in given]
        scores[row, : len(given)] = torch.tensor(log_probabilities[row]) / torch.tensor(sizes)
    return scores


def check_choices(prompts: Sequence[str], choices: Sequence[Sequence[str]], normalization: str) -> None:
    """Refuse an unknown normalization, and prompts without choices; see :func:`score_choices`."""
    if normalization not in get_args(ChoiceNormalization):
        raise ValueError(
            f"normalization must be one of {', '.join(get_args(ChoiceNormalization))}, got {normalization!r}."
        )
    if len(prompts) != len(choices):
        raise ValueError(f"Every prompt needs choices: got {len(prompts)} prompts and choices for {len(choices)}.")
    for number, given in enumerate(choices):
        if not given or not all(given):
            raise ValueError(
                f"Prompt {number} has the choices {list(given)}; give it at least one, and none that is empty."
            )


def _candidate(text: str) -> Candidate:
    """A choice as an answer that goes on: that it ends there is not scored."""
    return Candidate(text, member="", log_probability=0, num_tokens=0, margin=0, entropy=0, is_finished=False)
