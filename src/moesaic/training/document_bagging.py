"""Bagging for language models: each member reads its own bootstrap sample of the documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from moesaic.combiners import Average
from moesaic.data import PackedDocuments, Rows, bootstrap, evaluation_blocks, out_of_bag, take_documents
from moesaic.errors import DataError
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.training.validation import validation_nats


@dataclass(frozen=True)
class DocumentSample:
    """The documents that one bagged member is trained on.

    Attributes:
        domains: Those of each domain, as often as they were drawn.
        drawn: Their numbers in each domain.
    """

    domains: tuple[PackedDocuments, ...]
    drawn: tuple[Rows, ...]


def sample_documents(
    domains: Sequence[PackedDocuments],
    *,
    seed: int,
    batch_tokens: int,
    sequence_length: int,
    max_samples: float = 1.0,
    replace: bool = True,
) -> DocumentSample:
    """Draw the documents of one bagged member, domain by domain.

    Args:
        domains: The training documents of every domain.
        seed: Makes the draw; every member has its own.
        batch_tokens: Tokens in a batch, which the sample must hold at least.
        sequence_length: Tokens that the model reads in a sequence.
        max_samples: Documents drawn of each domain, as a share of all.
        replace: Draw with replacement.

    Raises:
        DataError: If the sample is smaller than a batch, or a domain's than a sequence.
    """
    drawn = tuple(
        bootstrap(domain.num_documents, seed=seed + 1_000_003 * number, max_samples=max_samples, replace=replace)
        for number, domain in enumerate(domains)
    )
    samples = tuple(take_documents(domain, rows) for domain, rows in zip(domains, drawn, strict=True))
    shortest, total = min(len(sample.tokens) for sample in samples), sum(len(sample.tokens) for sample in samples)
    if total < batch_tokens or shortest <= sequence_length:
        raise DataError(
            f"A bootstrap of {max_samples:g} of the documents has {total} tokens, {shortest} of them in its smallest "
            f"domain; a batch has {batch_tokens} and a sequence {sequence_length}. Raise max_samples, add text, or "
            "lower batch_size."
        )
    return DocumentSample(samples, drawn)


def out_of_bag_nats(
    networks: Sequence[nn.Module],
    samples: Sequence[DocumentSample],
    domains: Sequence[PackedDocuments],
    *,
    sequence_length: int,
    max_tokens: int = 8192,
) -> float:
    """The bag's loss on its own training documents, each read only by the members that were not trained on it.

    An estimate of the loss on unseen text that costs no text. Documents that every member has drawn are left out.

    Args:
        networks: The members.
        samples: What each was trained on.
        domains: The training documents of every domain.
        sequence_length: Tokens that a model reads at once.
        max_tokens: Tokens of each domain that are read, in whole documents, from the first on.

    Returns:
        Nats per token, the mean over domains; not a number where no document was left out by any member.

    Reference: Breiman (1996), Out-of-bag estimation.
    """
    means = []
    for number, domain in enumerate(domains):
        unseen = [set(out_of_bag(domain.num_documents, sample.drawn[number]).tolist()) for sample in samples]
        readers: dict[tuple[int, ...], list[int]] = {}
        num_read = max(1, int((domain.document_starts < max_tokens).sum()))
        for row in range(num_read):
            members = tuple(member for member, rows in enumerate(unseen) if row in rows)
            if members:
                readers.setdefault(members, []).append(row)
        nats, tokens = 0.0, 0
        for members, rows in readers.items():
            bag = Mixture([CausalLM(str(member), networks[member]) for member in members], Average())
            documents = take_documents(domain, np.array(rows))
            blocks = evaluation_blocks(documents, sequence_length=sequence_length)
            nats += validation_nats(bag, {"": blocks}) * blocks.num_tokens
            tokens += blocks.num_tokens
        means.append(nats / tokens if tokens else float("nan"))
    return sum(means) / len(means)
