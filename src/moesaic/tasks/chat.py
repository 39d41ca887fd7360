"""What chat models read and write: turns in the tokenizer's chat template, and an answer that ends the turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from moesaic.data import Cut, Pair, TokenizedPairs
from moesaic.errors import CheckpointError, DataError

Message = Mapping[str, str]
"""A turn: its ``role`` (``system``, ``user`` or ``assistant``) and its ``content``."""

CHAT_TAGS = ("<|system|>", "<|user|>", "<|assistant|>")
"""What turns begin with in :data:`CHAT_TEMPLATE`; each is to be one token."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The template of models that bring none: a tag for who speaks, what is said, and the token that ends a text."""

_PROBE = "moesaic"
"""An answer that is looked for in what a template makes of it."""


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: str | Sequence[Message]) -> str:
    """Turns in the tokenizer's chat template, up to where the model answers.

    Tokenize it without adding special tokens, since the template has put them there.

    Args:
        tokenizer: The model's tokenizer.
        messages: The turns, of which the last is the user's; or what a user says, as the only one.

    Raises:
        CheckpointError: If there is no template, it fails, or it leaves out the system's turn or the last one.

    Example:
        >>> from moesaic.testing import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> tokenizer.chat_template = CHAT_TEMPLATE
        >>> chat_prompt(tokenizer, "Who sang?")
        '<|user|>Who sang?<eos><|assistant|>'
    """
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    prompt = _render(tokenizer, turns, add_generation_prompt=True)
    for turn in {turns[0]["role"]: turns[0], "user": turns[-1]}.values():
        if turn["content"].strip() not in prompt:
            raise CheckpointError(
                f"The chat template of {_name(tokenizer)} leaves out what the {turn['role']} says: {prompt!r}. "
                f"{_REMEDY}"
            )
    return prompt


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which the chat template ends an answer; the one that ends a text, where it has none of its own.

    Raises:
        CheckpointError: If there is no template, it fails or leaves the answer out, or nothing ends an answer.

    Example:
        >>> from moesaic.testing import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> tokenizer.chat_template = CHAT_TEMPLATE
        >>> tokenizer.decode([end_of_turn(tokenizer)])
        '<eos>'
    """
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
    whole = _render(tokenizer, turns, add_generation_prompt=False)
    _, answer, after = whole.rpartition(_PROBE)
    if not answer:
        raise CheckpointError(
            f"The chat template of {_name(tokenizer)} leaves out what the assistant says: {whole!r}. {_REMEDY}"
        )
    added = tokenizer.added_tokens_decoder
    ends = [token for token in tokenizer(after, add_special_tokens=False)["input_ids"] if token in added]
    if not ends and tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"Neither the chat template of {_name(tokenizer)} ends an answer with a token of its own, nor has the "
            "tokenizer a token that ends a text. Set its eos_token."
        )
    return int([*ends, tokenizer.eos_token_id][0])


def encode_prompts(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[list[list[int]], int, int]:
    """What a model reads of pairs, in the tokenizer's chat template.

    Of conversations that are too long, the oldest turns are left out, but never the system's; where the last turn alone
    is too long, its beginning is read. The template is always whole.

    Args:
        pairs: What is asked; references are not looked at.
        tokenizer: A tokenizer with a chat template.
        max_tokens: Tokens of a prompt at most.

    Returns:
        The tokens of each prompt, how many prompts were cut, and by how many tokens in all.

    Raises:
        CheckpointError: If the template fails.
        DataError: If the template leaves no room for what the user says.
    """
    fitted = [_fit(_turns(pair), tokenizer, max_tokens) for pair in pairs]
    rests = [rest for _, rest in fitted if rest]
    return [tokens for tokens, _ in fitted], len(rests), sum(rests)


def tokenize_chats(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, *, max_source_tokens: int, max_target_tokens: int
) -> tuple[TokenizedPairs, Cut]:
    """Tokenize pairs for a model that chats: prompts as :func:`encode_prompts` gives them, and answers that end a turn.

    An answer is tokenized by itself, as it is written: after a prompt that is already tokens.

    Args:
        pairs: Sources and targets.
        tokenizer: A tokenizer with a chat template.
        max_source_tokens: Tokens of a prompt at most.
        max_target_tokens: Tokens of an answer at most; of longer ones the beginning, and that it ends there.

    Returns:
        The tokens, and what was cut.

    Raises:
        CheckpointError: If the template fails.
        DataError: If the template leaves no room for what the user says.
    """
    sources, num_sources, source_rest = encode_prompts(pairs, tokenizer, max_source_tokens)
    end = end_of_turn(tokenizer)
    answers = [[*_plain(tokenizer, pair.target), end] for pair in pairs]
    rests = [len(answer) - max_target_tokens for answer in answers if len(answer) > max_target_tokens]
    targets = [[*answer[: min(len(answer), max_target_tokens) - 1], end] for answer in answers]
    return TokenizedPairs.of(sources, targets), Cut(num_sources, len(rests), source_rest + sum(rests))


def _turns(pair: Pair) -> list[Message]:
    return list(pair.messages) or [{"role": "user", "content": pair.source}]


def _fit(turns: list[Message], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[list[int], int]:
    """The tokens of a prompt, and how many were cut."""
    tokens = _plain(tokenizer, chat_prompt(tokenizer, turns))
    num_tokens = len(tokens)
    while len(tokens) > max_tokens:
        turns = _shorten(turns, tokenizer, len(tokens) - max_tokens)
        tokens = _plain(tokenizer, chat_prompt(tokenizer, turns))
    return tokens, num_tokens - len(tokens)


def _shorten(turns: list[Message], tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> list[Message]:
    """Without the oldest turn of the user and what was answered; if there is one turn only, without its end."""
    first = 1 if turns[0]["role"] == "system" else 0
    of_user = [place for place, turn in enumerate(turns) if place > first and turn["role"] == "user"]
    if of_user:
        return turns[:first] + turns[of_user[0] :]
    said = _plain(tokenizer, turns[-1]["content"])
    # A character that was cut in the middle is left out.
    kept = tokenizer.decode(said[: max(0, len(said) - num_tokens)]).rstrip("\N{REPLACEMENT CHARACTER}")
    if not kept.strip():
        raise DataError(
            "The chat template with the system's text has so many tokens that nothing of what the user says could be "
            f"read: {num_tokens} too many. Raise data.max_source_tokens, or shorten the system's text."
        )
    return [*turns[:-1], {**turns[-1], "content": kept}]


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens


_REMEDY = "Correct its chat_template, leave out what it does not know, or set task.chat_template to false."


def _render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], *, add_generation_prompt: bool) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except Exception as error:  # a template is a program of its author's, and may raise anything
        said = ", ".join(turn["role"] for turn in turns)
        raise CheckpointError(
            f"The chat template of {_name(tokenizer)} fails on turns of {said}: {error} {_REMEDY}"
        ) from error


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.name_or_path or "the tokenizer")
