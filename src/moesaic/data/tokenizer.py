"""Tokenizers, trained where no model brings one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<eos>"
PADDING = "<pad>"


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
    return PreTrainedTokenizerFast(
        tokenizer_object=_train(documents, vocab_size, [END_OF_TEXT]),
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def train_pair_tokenizer(texts: Iterable[str], vocab_size: int, *, tags: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Train one for sources and targets, as encoder-decoder models read and write them: each text ends with a token.

    Args:
        texts: Sources and targets.
        vocab_size: Tokens at most: padding (number 0), end of text (1), the tags and the 256 bytes included.
        tags: Words that are one token each, such as the target language's.

    Example:
        >>> tokenizer = train_pair_tokenizer(["the cat", "die Katze"], vocab_size=280, tags=["<2de>"])
        >>> tokens = tokenizer.convert_ids_to_tokens(tokenizer("<2de> the cat")["input_ids"])
        >>> tokens[0], tokens[-1]
        ('<2de>', '<eos>')
    """
    backend = _train(texts, vocab_size, [PADDING, END_OF_TEXT, *tags])
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, backend.token_to_id(END_OF_TEXT))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def train_reader_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece tokenizer for encoders that read a question and its context, as BERT's does.

    Args:
        texts: What it is trained on.
        vocab_size: Tokens at most: ``[PAD]``, ``[UNK]``, ``[CLS]`` and ``[SEP]`` (numbers 0 to 3) included.

    Example:
        >>> tokenizer = train_reader_tokenizer(["who sang ?", "ann sang ."], vocab_size=60)
        >>> tokenizer.convert_ids_to_tokens(tokenizer("Who?", "Ann sang.")["input_ids"])
        ['[CLS]', 'who', '?', '[SEP]', 'ann', 'sang', '.', '[SEP]']

    Reference: Devlin et al. (2019), section 3, https://arxiv.org/abs/1810.04805
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _train(texts: Iterable[str], vocab_size: int, special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
