"""Prompts as chat models read them."""

from __future__ import annotations

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from moesaic.errors import CheckpointError


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """What a user says, in the tokenizer's chat template, up to where the model answers; as it is where there is none.

    A beginning-of-text token that the tokenizer adds by itself is left out, so that it does not stand there twice.

    Args:
        tokenizer: The model's tokenizer.
        text: What the user says.

    Raises:
        CheckpointError: If the template fails.

    Example:
        >>> from moesaic.testing import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> chat_prompt(tokenizer, "Who sang?")
        'Who sang?'
        >>> tokenizer.chat_template = "{% for message in messages %}[{{ message.content }}]{% endfor %}:"
        >>> chat_prompt(tokenizer, "Who sang?")
        '[Who sang?]:'
    """
    if not tokenizer.chat_template:
        return text
    said = [{"role": "user", "content": text}]
    try:
        prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The chat template of {tokenizer.name_or_path or 'the tokenizer'} fails: {error} Correct its "
            "chat_template, or set it to None to have prompts read as they are."
        ) from error
    adds_begin = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return prompt.removeprefix(tokenizer.bos_token) if adds_begin else prompt
