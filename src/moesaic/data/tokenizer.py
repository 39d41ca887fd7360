"""A byte-level BPE tokenizer, trained where no model brings one."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<eos>"


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: every text can be written with it and read back unchanged.

    Args:
        documents: What it is trained on.
        vocab_size: Tokens at most, the 256 bytes and the end-of-text token (number 0) included.

    Example:
        >>> tokenizer = train_tokenizer(["the cat", "the mat"], vocab_size=260)
        >>> tokenizer.decode(tokenizer("the bat ß")["input_ids"])
        'the bat ß'

    Reference: Sennrich et al. (2016), section 3.2, https://arxiv.org/abs/1508.07909
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
