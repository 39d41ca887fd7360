"""Compare models on text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from moesaic.arena.bootstrap import Bootstrap
from moesaic.arena.measure import measure
from moesaic.arena.rows import Kind
from moesaic.arena.table import ArenaTable
from moesaic.data import Data, evaluation_blocks, load_domain, name_sources, pack_documents
from moesaic.errors import IncompatibleMembersError
from moesaic.mixture import Mixture
from moesaic.moe import is_sparse
from moesaic.types import Member


def evaluate(
    models: Member | Sequence[Member],
    data: Data,
    *,
    sequence_length: int = 128,
    max_tokens: int | None = None,
    batch_size: int = 16,
    num_resamples: int = 1000,
    seed: int = 0,
) -> ArenaTable:
    """Measure models on the same documents, every token once.

    Args:
        models: One model or several that share a tokenizer: loaded members, mixtures.
        data: A file or folder, a source, or several by the names of their domains.
        sequence_length: Tokens that a model reads at once.
        max_tokens: Tokens of each domain, in whole documents; all if not given.
        batch_size: Windows read at once.
        num_resamples: Bootstrap resamples behind each confidence interval.
        seed: Makes the resamples.

    Returns:
        The table: loss in nats per token and in bits per byte, accuracy, calibration, diversity of ensembles,
        parameters, memory, tokens per second.

    Raises:
        DataError: If the text cannot be read, or there is none.
        IncompatibleMembersError: If the models have different tokenizers: their losses per token are then about
            different tokens.
        ValueError: If there is no model, two have one name, or one has no tokenizer.
    """
    compared = list(models) if isinstance(models, Sequence) else [models]
    tokenizer = _common_tokenizer(compared)
    blocks = {}
    for name, source in name_sources(data).items():
        documents = load_domain(name, source, validation_fraction=0.0, test_fraction=0.0).train
        packed = pack_documents(documents, tokenizer)
        blocks[name] = evaluation_blocks(packed, sequence_length=sequence_length, max_tokens=max_tokens)
    rows = []
    for model in compared:
        measured = measure(model.network, blocks, batch_size=batch_size, name=model.name)
        rows.append(measured.row(model.network, name=model.name, kind=_kind(model.network)))
    return ArenaTable(tuple(rows), tuple(blocks), Bootstrap(num_resamples, seed))


def _common_tokenizer(models: Sequence[Member]) -> PreTrainedTokenizerBase:
    if not models:
        raise ValueError("There is no model to evaluate; give at least one.")
    names = [model.name for model in models]
    tokenizers = []
    for model in models:
        if names.count(model.name) > 1:
            raise ValueError(f"Two models are called {model.name!r}; give each its own name.")
        if model.tokenizer is None:
            raise ValueError(f"{model.name} has no tokenizer, so it cannot read text. Load it with one.")
        tokenizers.append(model.tokenizer)
        if model.tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise IncompatibleMembersError(
                f"{models[0].name} and {model.name} have different tokenizers, so their losses per token are about "
                "different tokens. Evaluate them one by one, and compare bits per byte."
            )
    return tokenizers[0]


def _kind(network: Any) -> Kind:
    if isinstance(network, Mixture):
        return "ensemble"
    return "mixture" if is_sparse(network.config) else "expert"
