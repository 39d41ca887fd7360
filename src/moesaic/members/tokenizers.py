"""The tokenizer that a checkpoint brings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from moesaic.errors import CheckpointError, first_sentence


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint that writes; one without padding fills up with the token that ends texts.

    Args:
        folder: What ``save_pretrained`` wrote.

    Raises:
        CheckpointError: If there is none, it cannot be read, or it has no token that ends a text.
    """
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise CheckpointError(
            f"{folder}: there is no tokenizer, so text cannot be read. Save one beside the model: "
            "tokenizer.save_pretrained(folder)."
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ImportError, OSError, ValueError) as error:  # packages, files and code that it would need
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {_reason(folder, error)}.") from error
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{folder}: its tokenizer has no token that ends a text, so answers would have no end. Set "
            "tokenizer.eos_token, and save it again."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _reason(folder: Path, error: Exception) -> str:
    pieces = [path.name for ending in ("spm", "model") for path in sorted(folder.glob(f"*.{ending}"))]
    if pieces and find_spec("sentencepiece") is None:  # Transformers names whatever it tried last
        return f"{pieces[0]} is a SentencePiece model. Install what reads it: pip install 'moesaic[sentencepiece]'"
    return first_sentence(error)
