"""What a member answers to a prompt, and how probable it finds what somebody answered, each in its own tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from moesaic.experts import fast_decoding
from moesaic.members.damage import check_numbers
from moesaic.types import Candidate, Member


@dataclass(frozen=True)
class Sampling:
    """How members write.

    Attributes:
        max_new_tokens: Number of tokens that a member writes at most, in its own tokens.
        num_candidates: Answers that each member gives to a prompt.
        temperature: 0 always takes the likeliest token; else logits are divided by it, and nothing else is cut off.
        seed: Makes the random choices, anew for each member.
        batch_size: Answers that are written, or scored, at a time.

    Raises:
        ValueError: If a number is out of range, or several answers are asked for without chance.
    """

    max_new_tokens: int
    num_candidates: int = 1
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_candidates", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature:g}.")
        if self.num_candidates > 1 and self.temperature == 0:
            raise ValueError(
                f"At temperature 0 all {self.num_candidates} candidates of a member would be the same. "
                "Use num_candidates=1, or a temperature above 0."
            )


@torch.no_grad()
def write_candidates(member: Member, prompts: Sequence[str], sampling: Sampling) -> list[tuple[Candidate, ...]]:
    """Let a member answer each prompt.

    Args:
        member: A member with a tokenizer.
        prompts: What is continued.
        sampling: How.

    Returns:
        For each prompt, ``sampling.num_candidates`` answers.

    Raises:
        MemberError: If the member gives NaN.
        ValueError: If it has no tokenizer, or a prompt has no tokens.

    Example:
        >>> from moesaic.members import CausalLM
        >>> from moesaic.testing import tiny_causal_lm, tiny_tokenizer
        >>> member = CausalLM("cat", tiny_causal_lm(), tiny_tokenizer())
        >>> [(candidate,)] = write_candidates(member, ["the cat"], Sampling(max_new_tokens=3))
        >>> candidate.member, candidate.num_tokens
        ('cat', 3)
    """
    tokens = prompt_tokens(member, prompts)
    num_prompts = max(1, sampling.batch_size // sampling.num_candidates)
    answers: list[tuple[Candidate, ...]] = []
    with torch.random.fork_rng(), fast_decoding(member.network):
        torch.manual_seed(sampling.seed)
        for start in range(0, len(prompts), num_prompts):
            written = list(_continue(member, tokens[start : start + num_prompts], sampling))
            size = sampling.num_candidates
            answers += [tuple(written[first : first + size]) for first in range(0, len(written), size)]
    return answers


def _continue(member: Member, prompts: list[list[int]], sampling: Sampling) -> Iterator[Candidate]:
    tokenizer, ends = _tokenizer(member), _end_tokens(member)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else [*ends, 0][0]
    # On the left, so that all answers begin at the same position.
    padded, mask = _pad(prompts, pad, on="left", device=_device(member))
    reader = _Reader(member.name)
    chance = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    network: Any = member.network
    tokens = network.generate(
        padded,
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        num_return_sequences=sampling.num_candidates,
        logits_processor=LogitsProcessorList([reader]),
        eos_token_id=ends or None,
        pad_token_id=pad,
        **(chance if sampling.temperature else {"do_sample": False}),
    )[:, padded.shape[1] :]
    for row, figures in zip(tokens.tolist(), reader.finish(tokens).unbind(dim=1), strict=True):
        length = next((index + 1 for index, token in enumerate(row) if token in ends), len(row))
        log_probability, margin, entropy = figures[:, :length].sum(dim=1).tolist()
        is_finished = row[length - 1] in ends
        text = tokenizer.decode(row[: length - is_finished], skip_special_tokens=True)
        yield Candidate(
            text, member.name, log_probability, length, margin / length, entropy / length, is_finished=is_finished
        )


class _Reader(LogitsProcessor):
    """Reads along while a member writes, before temperature changes its scores."""

    def __init__(self, member: str) -> None:
        self.member = member
        self.margins: list[Tensor] = []
        self.entropies: list[Tensor] = []
        self.chosen: list[Tensor] = []
        self.last: Tensor | None = None

    def __call__(self, input_ids: Int[Tensor, "row position"], scores: Float[Tensor, "row vocab"]) -> Tensor:
        """Look at the scores, and leave them as they are."""
        check_numbers([self.member], scores.unsqueeze(0))
        self._choose(input_ids[:, -1])
        self.last = scores.float().log_softmax(dim=-1)
        probabilities = self.last.exp()
        first, second = probabilities.topk(2).values.unbind(dim=-1)
        self.margins.append(first - second)
        self.entropies.append(torch.special.entr(probabilities).sum(dim=-1))
        return scores

    def finish(self, tokens: Int[Tensor, "row position"]) -> Float[Tensor, "figure row position"]:
        """Log-probability, margin and entropy of each token that was written."""
        length = tokens.shape[1]
        if len(self.chosen) < length:
            self._choose(tokens[:, -1])
        figures = [self.chosen[:length], self.margins[:length], self.entropies[:length]]
        return torch.stack([torch.stack(figure, dim=1) for figure in figures]).double()

    def _choose(self, tokens: Int[Tensor, " row"]) -> None:
        # Only the last step's distribution is kept: which token was taken from it is known one step later.
        if self.last is not None:
            self.chosen.append(self.last.gather(1, tokens.unsqueeze(1)).squeeze(1))


@torch.no_grad()
def score_candidates(
    member: Member, prompts: Sequence[str], candidates: Sequence[Sequence[Candidate]], *, batch_size: int = 16
) -> list[tuple[float, ...]]:
    """How probable a member finds answers, whoever wrote them.

    The member reads the text in its own tokens. If the writer ended the text itself, that it ends there is scored too.

    Args:
        member: A member with a tokenizer.
        prompts: What was answered.
        candidates: Any number of answers to each prompt.
        batch_size: Answers that are scored at a time.

    Returns:
        Log-probability of each answer, given its prompt.

    Raises:
        MemberError: If the member gives NaN.
        ValueError: If it has no tokenizer, or a prompt has no tokens.
    """
    pieces = [
        (context, answer_tokens(member, prompt, context, candidate))
        for prompt, context, given in zip(prompts, prompt_tokens(member, prompts), candidates, strict=True)
        for candidate in given
    ]
    scores = [
        score
        for start in range(0, len(pieces), batch_size)
        for score in log_probabilities(member, pieces[start : start + batch_size])
    ]
    ends = torch.tensor([len(given) for given in candidates]).cumsum(0).tolist()
    return [tuple(scores[end - len(given) : end]) for given, end in zip(candidates, ends, strict=True)]


def answer_tokens(member: Member, prompt: str, context: list[int], candidate: Candidate) -> list[int]:
    """The tokens of an answer that follow those of its prompt."""
    tokenizer = _tokenizer(member)
    joint = tokenizer(prompt + candidate.text)["input_ids"]
    # Where the two grow together into one token, the answer is read by itself, as it was written.
    grows_together = joint[: len(context)] != context
    alone = tokenizer(candidate.text, add_special_tokens=False)["input_ids"] if candidate.text else []
    end = _end_tokens(member)[:1] if candidate.is_finished else []
    return [*(alone if grows_together else joint[len(context) :]), *end]


@torch.no_grad()
def log_probabilities(member: Member, pieces: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """How probable a causal member finds tokens that follow others; all are read at once.

    Args:
        member: The member.
        pieces: What it reads, at least one token, and what follows.

    Returns:
        Log-probability of what follows, in nats.

    Raises:
        MemberError: If the member gives NaN.
    """
    rows = [context + answer for context, answer in pieces]
    # On the right, where padding does not change how an answer is read.
    tokens, mask = _pad(rows, 0, on="right", device=_device(member))
    logits = member.network(input_ids=tokens, attention_mask=mask).logits
    check_numbers([member.name], logits.unsqueeze(0))
    scores = []
    for (context, answer), row, of_row in zip(pieces, tokens, logits, strict=True):
        end = len(context) + len(answer)
        predicted = of_row[len(context) - 1 : end - 1].float().log_softmax(dim=-1)
        target = row[len(context) : end].unsqueeze(1)
        scores.append(predicted.gather(1, target).double().sum().item())
    return scores


def _pad(
    rows: Sequence[list[int]], token: int, *, on: Literal["left", "right"], device: torch.device
) -> tuple[Int[Tensor, "row position"], Int[Tensor, "row position"]]:
    """The rows as one tensor, and 1 where it holds a token of theirs."""
    tokens = pad_sequence([torch.tensor(row) for row in rows], True, token, padding_side=on)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], True, 0, padding_side=on)
    return tokens.to(device), mask.to(device)


def prompt_tokens(member: Member, prompts: Sequence[str]) -> list[list[int]]:
    """Each prompt in the member's tokens.

    Raises:
        ValueError: If the member has no tokenizer, or a prompt has no tokens.
    """
    tokens = [_tokenizer(member)(prompt)["input_ids"] for prompt in prompts]
    for index, of_prompt in enumerate(tokens):
        if not of_prompt:
            raise ValueError(f"Prompt {index} is empty for member {member.name!r}; give at least one character.")
    return tokens


def _tokenizer(member: Member) -> PreTrainedTokenizerBase:
    if member.tokenizer is None:
        raise ValueError(f"Member {member.name!r} has no tokenizer, so it cannot read or write text.")
    return member.tokenizer


def _end_tokens(member: Member) -> list[int]:
    """Tokens that end a text; a checkpoint may know more of them than its tokenizer."""
    network: Any = member.network
    given = network.generation_config.eos_token_id
    if given is None:
        given = _tokenizer(member).eos_token_id
    if given is None:
        return []
    return list(given) if isinstance(given, Sequence) else [given]


def _device(member: Member) -> torch.device:
    return next(member.network.parameters()).device
