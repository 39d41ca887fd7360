"""Any member or mixture in the language-model evaluation harness, ``lm_eval``: its tasks, and one's own.

Importing this file registers the name ``moesaic``, so that ``lm_eval.simple_evaluate(model="moesaic",
model_args="path=runs/news")`` works. The harness's own command looks for no other packages' models; ``moesaic harness``
is that command with the name known.

Written against the harness's interface and not against its ``HFLM``, which would load checkpoints in its own way, and
would give a mixture 2048 tokens whatever its members can read. Texts are cut, padded, sorted and put into batches as
``HFLM`` does, so that a mixture of one member has that member's figures to the last digit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from moesaic.arena.likelihood import Continuation, context_length, prefix_token, score_continuations
from moesaic.members import load_member
from moesaic.types import Member

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"The evaluation harness cannot be used ({error}). Install it: pip install 'moesaic[lm-eval]'."
    ) from None

_NUM_NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the number of tokens to write, in the order in which they count."""

_EncodedPair = tuple[Any, Sequence[int], Sequence[int]]
"""What the harness calls a request, and the tokens of its context and of its continuation."""

_Item = TypeVar("_Item")


@register_model("moesaic")
class HarnessModel(TemplateLM):
    """A member or mixture as the harness calls it.

    Args:
        model: The model; it needs a tokenizer.
        path: Where it is loaded from, if it is not given: a run, a checkpoint, or a model's name on the Hub.
        batch_size: Texts read at once.
        max_length: Tokens read of a text at most, the last ones; what the model says of itself if not given.
        max_gen_toks: Tokens written where a task does not say how many.
        device: Where the model runs, such as ``cuda``; where it is if not given.

    Raises:
        ValueError: If there is no model or two, no tokenizer, the model cannot say how likely a text is, or a number
            is too small.
        CheckpointError: If there is no whole checkpoint at ``path``.

    Example:
        >>> from moesaic.members import CausalLM
        >>> from moesaic.testing import tiny_causal_lm, tiny_tokenizer
        >>> model = HarnessModel(CausalLM("tiny", tiny_causal_lm(), tiny_tokenizer()))
        >>> model.max_length
        64

    Reference: Biderman et al. (2024), Lessons from the trenches on reproducible evaluation of language models,
        https://arxiv.org/abs/2405.14782
    """

    def __init__(
        self,
        model: Member | None = None,
        *,
        path: str | None = None,
        batch_size: int | str = 8,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if (model is None) == (path is None):
            raise ValueError("Give the harness a model or a path, for instance --model_args path=runs/news.")
        member = load_member(str(path)) if model is None else model
        if member.tokenizer is None:
            raise ValueError(f"{member.name} has no tokenizer, so it cannot read text. Load it with one.")
        network: Any = member.network.eval()
        if not hasattr(network, "generate") or network.config.is_encoder_decoder:
            raise ValueError(
                f"{member.name} ({type(network).__name__}) is no causal language model. The harness takes those, and "
                "mixtures of them that meet at logits or hidden states."
            )
        self.network = network if device is None else network.to(device)
        self.tokenizer: PreTrainedTokenizerBase = member.tokenizer
        self.name = member.name
        self.batch_size = _positive("batch_size", batch_size)
        self.max_length = (
            context_length(network.config, member.tokenizer)
            if max_length is None
            else _positive("max_length", max_length)
        )
        self.max_gen_toks = _positive("max_gen_toks", max_gen_toks)
        self._device = network.device

    # tokens

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; where there is none, the one that begins the next."""
        ends = self.tokenizer.eos_token_id
        return self.prefix_token_id if ends is None else int(ends)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text."""
        return prefix_token(self.tokenizer)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokens of a text; special ones are added as the tokenizer does, unless the text begins with one already."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps prepared requests under."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the tokenizer's template writes it."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    # the three kinds of request; loglikelihood() is the harness's own, and calls _loglikelihood_tokens

    def _loglikelihood_tokens(self, requests: Sequence[_EncodedPair], **kwargs: Any) -> list[tuple[float, bool]]:
        continuations = [Continuation(tuple(context), tuple(tokens)) for _, context, tokens in requests]
        found = score_continuations(self.network, continuations, batch_size=self.batch_size, max_length=self.max_length)
        answers = [(likelihood.log_probability, likelihood.is_greedy) for likelihood in found]
        for (request, _, _), answer in zip(requests, answers, strict=True):
            if request is not None:
                self.cache_hook.add_partial("loglikelihood", request, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token scored once; long ones are read in windows.

        Args:
            requests: The harness's requests, one text each.
            disable_tqdm: Part of the harness's interface; there is no bar.
        """
        texts = [request.args[0] for request in requests]
        windows = [(number, *window) for number, text in enumerate(texts) for window in self._windows(text)]
        totals = [0.0] * len(texts)
        for batch in _batches(windows, self.batch_size):
            scores = self._loglikelihood_tokens([(None, context, tokens) for _, context, tokens in batch])
            for (number, *_), (log_probability, _) in zip(batch, scores, strict=True):
                totals[number] += log_probability
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1)
        return map(make_disjoint_window, windows)

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue texts until one of the task's stop words comes.

        Args:
            requests: The harness's requests: a text, and how to continue it.
            disable_tqdm: Part of the harness's interface; there is no bar.

        Raises:
            ValueError: If a task wants as many tokens as the model can read, which leaves no room for a prompt.
        """
        answers: dict[int, str] = {}
        for options, numbers in _group_by_options(requests).items():
            decoding = _Decoding.read(json.loads(options), self.max_gen_toks)
            prompts = {number: self.tok_encode(requests[number].args[0]) for number in numbers}
            numbers.sort(key=lambda number: (-len(prompts[number]), requests[number].args[0]))
            for batch in _batches(numbers, self.batch_size):
                texts = self._write([prompts[number] for number in batch], decoding)
                for number, text in zip(batch, texts, strict=True):
                    answers[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return [answers[number] for number in range(len(requests))]

    def _write(self, prompts: Sequence[Sequence[int]], decoding: _Decoding) -> list[str]:
        room = self.max_length - decoding.num_new_tokens
        if room < 1:
            raise ValueError(
                f"The task asks for {decoding.num_new_tokens} new tokens, and {self.name} reads {self.max_length} "
                "tokens, so no prompt fits. Ask for fewer with --gen_kwargs max_gen_toks=N."
            )
        pad = self.eot_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        input_ids, attention_mask = _pad_left([prompt[-room:] for prompt in prompts], pad)
        num_read = input_ids.shape[1]
        stop = [*decoding.stop, self.tokenizer.decode(self.eot_token_id)]
        written = self.network.generate(
            input_ids=input_ids.to(self.device),
            attention_mask=attention_mask.to(self.device),
            max_new_tokens=decoding.num_new_tokens,
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([_StopAtText(self.tokenizer, stop, num_read)]),
            **decoding.sampling,
        )
        texts = self.tokenizer.batch_decode(written[:, num_read:], skip_special_tokens=True)
        return [_cut(text, decoding.stop) for text in texts]


@dataclass(frozen=True)
class _Decoding:
    """How a task wants texts continued.

    Attributes:
        stop: Texts that end the answer and are no part of it.
        num_new_tokens: Tokens written at most.
        sampling: What ``generate`` is to know besides.
    """

    stop: tuple[str, ...]
    num_new_tokens: int
    sampling: Mapping[str, Any]

    @classmethod
    def read(cls, options: Mapping[str, Any], num_new_tokens: int) -> _Decoding:
        """Read the keys of a task's ``generation_kwargs``; the likeliest token is taken unless a temperature is set."""
        left = dict(options)
        stop = left.pop("until", None) or []
        counts = [left.pop(name, None) for name in _NUM_NEW_TOKENS]
        stated = [int(count) for count in counts if count is not None]
        temperature = float(left.pop("temperature", None) or 0.0)
        if left.setdefault("do_sample", temperature > 0):
            left["temperature"] = temperature
        return cls(
            stop=tuple([stop] if isinstance(stop, str) else stop),
            num_new_tokens=stated[0] if stated else num_new_tokens,
            sampling=left,
        )


class _StopAtText(StoppingCriteria):
    """Ends each text once a stop word stands in what was written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], num_read: int) -> None:
        self.tokenizer = tokenizer
        self.stop = [text for text in stop if text]
        self.num_read = num_read
        # A stop word may be written in other tokens than the tokenizer would take, so two more are looked at.
        lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in self.stop]
        self.num_looked_at = 2 + max(lengths, default=0)

    def __call__(self, input_ids: Int[Tensor, "batch position"], scores: Any, **kwargs: Any) -> Bool[Tensor, " batch"]:
        start = max(self.num_read, input_ids.shape[1] - self.num_looked_at)
        ends = self.tokenizer.batch_decode(input_ids[:, start:])
        return torch.tensor([any(text in end for text in self.stop) for end in ends], device=input_ids.device)


def _cut(text: str, stop: Sequence[str]) -> str:
    """A text up to the first stop word."""
    for word in stop:
        text = text.split(word)[0] if word else text
    return text


def _group_by_options(requests: Sequence[Instance]) -> dict[str, list[int]]:
    """The numbers of the requests that are to be continued in the same way."""
    groups: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
    return groups


def _pad_left(
    prompts: Sequence[Sequence[int]], pad: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Prompts of one length, and where they are not padding."""
    length = max(len(prompt) for prompt in prompts)
    tokens = [[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens), torch.tensor(mask)


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _positive(name: str, value: int | str) -> int:
    """A number as a command line gives it.

    Raises:
        ValueError: If it is none above 0.
    """
    if not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}.")
    return int(value)


def run_harness(arguments: Sequence[str]) -> None:
    """The harness's own command, with the name ``moesaic`` known to it.

    Args:
        arguments: What follows ``lm_eval`` on its command line.
    """
    from lm_eval.__main__ import cli_evaluate

    given = sys.argv
    sys.argv = ["lm_eval", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = given
