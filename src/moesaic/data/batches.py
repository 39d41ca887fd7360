"""From documents to tokens, and from tokens to batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moesaic.data.domains import Domain
from moesaic.errors import DataError

NOT_SCORED = -100
"""Label of a position whose prediction does not count."""


@dataclass(frozen=True)
class PackedDocuments:
    """Documents one after the other, each followed by the end-of-text token.

    Attributes:
        tokens: All tokens.
        document_starts: Where each document begins in ``tokens``.
        document_bytes: Length of each document in bytes of UTF-8.
    """

    tokens: Int[Tensor, " token"]
    document_starts: Int[Tensor, " document"]
    document_bytes: Int[Tensor, " document"]

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.document_starts)

    def documents(self) -> list[Int[Tensor, " token"]]:
        """The tokens of each document."""
        return list(self.tokens.tensor_split(self.document_starts[1:])) if self.num_documents else []

    def save(self, path: Path) -> None:
        """Write the tokens to a safetensors file."""
        save_file({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> PackedDocuments:
        """Read what :meth:`save` wrote."""
        return cls(**load_file(path))


def pack_documents(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> PackedDocuments:
    """Tokenize documents and put them one after the other, with the end-of-text token between them."""
    encoded: list[list[int]] = []
    if documents:
        # verbose=False: a document longer than a model's context is nothing to warn of, it is read in windows.
        encoded = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    lengths = torch.tensor([len(ids) + 1 for ids in encoded], dtype=torch.int64)
    tokens = [token for ids in encoded for token in (*ids, tokenizer.eos_token_id)]
    return PackedDocuments(
        torch.tensor(tokens, dtype=torch.int32),
        lengths.cumsum(0) - lengths,
        torch.tensor([len(document.encode()) for document in documents], dtype=torch.int64),
    )


@dataclass(frozen=True)
class TokenizedDomain:
    """A domain as tokens.

    Attributes:
        name: What the domain is called.
        train: What models are trained on.
        validation: What routers and stackers may be fitted on.
        test: What the arena measures on.
    """

    name: str
    train: PackedDocuments
    validation: PackedDocuments
    test: PackedDocuments


def tokenize_domain(domain: Domain, tokenizer: PreTrainedTokenizerBase, *, sequence_length: int) -> TokenizedDomain:
    """Tokenize the splits of a domain.

    Raises:
        DataError: If there is too little text for one training sequence, or none to test on.
    """
    train = pack_documents(domain.train, tokenizer)
    if len(train.tokens) < sequence_length + 1:
        raise DataError(
            f"Domain {domain.name!r} has {len(train.tokens)} tokens to train on, fewer than one sequence of "
            f"{sequence_length} and the token after it. Add text, or lower data.sequence_length."
        )
    if not domain.test:
        raise DataError(
            f"Domain {domain.name!r} has no document to test on: its {len(domain.train)} documents all fell to "
            "training. Add documents, or raise data.test_fraction."
        )
    return TokenizedDomain(
        domain.name, train, pack_documents(domain.validation, tokenizer), pack_documents(domain.test, tokenizer)
    )


class TrainingBatch(Protocol):
    """What the training loop asks of a batch; what is in it is between the sampler and the objective."""

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        ...

    def rows(self, first: int, end: int) -> TrainingBatch:
        """Some of its rows."""
        ...

    def to(self, device: Any) -> TrainingBatch:
        """The batch on another device."""
        ...


class Sampler(Protocol):
    """Gives the batch of each step; a function of the step alone, so that training can be continued."""

    def batch(self, step: int) -> TrainingBatch:
        """The batch of a step."""
        ...


@dataclass(frozen=True)
class Batch:
    """Sequences to train on.

    Attributes:
        input_ids: What the model reads, ``(batch, position)``.
        labels: The token that follows each position, ``(batch, position)``; already shifted.
        domain_index: Which domain each sequence comes from, ``(batch,)``.
    """

    input_ids: Int[Tensor, "batch position"]
    labels: Int[Tensor, "batch position"]
    domain_index: Int[Tensor, " batch"]

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.input_ids.device

    def rows(self, first: int, end: int) -> Batch:
        """Some of the sequences."""
        return Batch(self.input_ids[first:end], self.labels[first:end], self.domain_index[first:end])

    def to(self, device: Any) -> Batch:
        """The batch on another device."""
        return Batch(self.input_ids.to(device), self.labels.to(device), self.domain_index.to(device))


@dataclass(frozen=True)
class BatchSampler:
    """Draws the batch of each step: for every row a domain by its weight, then a window anywhere in its tokens.

    A batch is a function of the seed and the step alone, so a run that continues needs no state of the sampler.

    Attributes:
        domains: The packed documents of each domain.
        batch_size: Sequences in a batch.
        sequence_length: Tokens that a model reads in a sequence.
        seed: Makes the draws.
        weights: Share of each domain; equal if not given.
        first_step: Step of the draws that counts as step 0: where another training stopped.
    """

    domains: Sequence[PackedDocuments]
    batch_size: int
    sequence_length: int
    seed: int
    weights: Sequence[float] | None = None
    first_step: int = 0

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        generator = torch.Generator().manual_seed(draw_seed(self.seed, self.first_step + step))
        weights = torch.tensor(self.weights or [1.0] * len(self.domains))
        domain_index = torch.multinomial(weights, self.batch_size, replacement=True, generator=generator)
        places = torch.rand(self.batch_size, generator=generator, dtype=torch.float64)
        rows = []
        for domain, place in zip(domain_index.tolist(), places.tolist(), strict=True):
            tokens = self.domains[domain].tokens
            start = int(place * (len(tokens) - self.sequence_length))
            rows.append(tokens[start : start + self.sequence_length + 1])
        sequences = torch.stack(rows).long()
        return Batch(sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous(), domain_index)


def draw_seed(seed: int, step: int) -> int:
    """The random seed of one step."""
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@dataclass(frozen=True)
class EvaluationBlocks:
    """Documents cut into windows such that every token is scored exactly once.

    Attributes:
        input_ids: What the model reads, ``(block, position)``.
        labels: The token that follows each position, ``NOT_SCORED`` after the last document.
        document_index: The document of each label, ``(block, position)``.
        document_bytes: Length of each document in bytes of UTF-8.
    """

    input_ids: Int[Tensor, "block position"]
    labels: Int[Tensor, "block position"]
    document_index: Int[Tensor, "block position"]
    document_bytes: Int[Tensor, " document"]

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are scored."""
        return int((self.labels != NOT_SCORED).sum())


def evaluation_blocks(
    packed: PackedDocuments, *, sequence_length: int, max_tokens: int | None = None
) -> EvaluationBlocks:
    """Cut documents into windows that overlap by the one token that begins the next.

    The end-of-text token stands before the first document, so that its first token has something to follow.

    Args:
        packed: The documents.
        sequence_length: Tokens that the model reads in a window.
        max_tokens: Whole documents are taken, in order, while they fit; at least one is.
    """
    ends = torch.cat([packed.document_starts[1:], torch.tensor([len(packed.tokens)])])
    num_documents = packed.num_documents
    if max_tokens is not None:
        num_documents = max(1, int((ends <= max_tokens).sum()))
    tokens = packed.tokens[: int(ends[num_documents - 1])].long()
    lengths = ends[:num_documents] - packed.document_starts[:num_documents]
    documents = torch.arange(num_documents).repeat_interleave(lengths)

    num_blocks = -(-len(tokens) // sequence_length)
    missing = num_blocks * sequence_length - len(tokens)
    end_of_text = tokens[-1:]
    inputs = torch.cat([end_of_text, tokens[:-1], end_of_text.expand(missing)])
    labels = torch.cat([tokens, torch.full((missing,), NOT_SCORED)])
    documents = torch.cat([documents, documents[-1:].expand(missing)])
    shape = (num_blocks, sequence_length)
    return EvaluationBlocks(
        inputs.view(shape), labels.view(shape), documents.view(shape), packed.document_bytes[:num_documents]
    )
