"""Sources and targets: what models that translate, summarize or answer are trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moesaic.data.batches import NOT_SCORED
from moesaic.data.domains import load_domain
from moesaic.data.examples import check_batch_size, draw_rows
from moesaic.data.sources import RowSource, Source
from moesaic.errors import DataError

TARGET_TOKEN = "target_token"
"""Key of a pair's details: the token of a decoder's own with which the target begins, where there is one."""


@dataclass(frozen=True)
class Pair:
    """A text and what is to be written about it.

    Attributes:
        source: What a model reads.
        references: What it is to write; where several answers are right, the first is the one to learn.
        text: The text that the task is about as it stood in the row, where something is taken from it: whole sentences,
            or a span.
        details: What else models read that take from the text, as JSON values: the query of a document, a question and
            where its answers stand.
        messages: The turns that end in the source, as dictionaries of ``role`` and ``content``, where there is more
            than that: a system's text, or what was said before. Models without a chat template read the source alone.
    """

    source: str
    references: tuple[str, ...]
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    messages: tuple[Mapping[str, str], ...] = field(default=(), hash=False)

    @property
    def target(self) -> str:
        """What a model learns to write."""
        return self.references[0]


ReadPair = Callable[[Mapping[str, Any], str], Pair]
"""Makes a pair of a row, which stands where the second argument says: a task's own."""


@dataclass(frozen=True)
class PairDomain:
    """Pairs of one kind: a language pair, a kind of document.

    Attributes:
        name: What the domain is called.
        train: What models are trained on.
        validation: What lengths, routers and thresholds are fitted on.
        test: What is measured on.
    """

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


def load_pair_domain(
    name: str,
    source: Source,
    read: ReadPair,
    *,
    validation: Source | None = None,
    test: Source | None = None,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    group_field: str | None = None,
) -> PairDomain:
    """Read rows into pairs, deduplicated and split as documents are (:func:`moesaic.data.load_domain`).

    Args:
        name: What to call the domain.
        source: Where the rows come from.
        read: Makes a pair of a row.
        validation: Where those for validation come from, if not from the same source.
        test: Where those for testing come from, if not from the same source.
        validation_fraction: Share of the rows for validation, where these have no source.
        test_fraction: Share of the rows for testing, where these have no source.
        group_field: A field of which rows with the same value come into the same split, in whichever domain they are.

    Raises:
        DataError: If a source has no rows, a row does not fit the task, or one lacks the field of its group.
    """
    given = {"source": source, "validation": validation, "test": test}
    as_text = {use: None if rows is None else _PairText(name, rows, read, group_field) for use, rows in given.items()}
    assert as_text["source"] is not None
    domain = load_domain(
        name,
        as_text["source"],
        validation=as_text["validation"],
        test=as_text["test"],
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        group_of=None if group_field is None else as_text["source"].groups.__getitem__,
    )
    splits = (domain.train, domain.validation, domain.test)
    return PairDomain(name, *(tuple(map(read_pair, split)) for split in splits))


@dataclass(frozen=True)
class _PairText:
    """Pairs as documents: one line of JSON each, so that they are told apart and split by all that they say.

    Attributes:
        groups: The group of every line that was read, where rows have groups.
    """

    name: str
    source: Source
    read: ReadPair
    group_field: str | None = None
    groups: dict[str, str] = field(default_factory=dict)

    def documents(self) -> Iterator[str]:
        if not isinstance(self.source, RowSource):
            raise DataError(
                f"Domain {self.name!r}: {self.source} has documents, and a task needs rows with fields. Use a source "
                "of the type jsonl, parquet or hub."
            )
        for place, row in self.source.rows():
            line = write_pair(self.read(row, place))
            if self.group_field is not None:
                if self.group_field not in row:
                    raise DataError(
                        f"{place}: there is no field {self.group_field!r}, by which rows are kept together; there are "
                        f"{', '.join(row)}."
                    )
                self.groups[line] = str(row[self.group_field])
            yield line

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def write_pair(pair: Pair) -> str:
    """A pair as one line of JSON."""
    values: dict[str, Any] = {"source": pair.source, "references": pair.references, "text": pair.text}
    if pair.details:
        values["details"] = pair.details
    if pair.messages:
        values["messages"] = pair.messages
    return json.dumps(values, ensure_ascii=False)


def read_pair(line: str) -> Pair:
    """Read what :func:`write_pair` gave."""
    values = json.loads(line)
    return Pair(
        values["source"],
        tuple(values["references"]),
        values["text"],
        values.get("details", {}),
        tuple(values.get("messages", ())),
    )


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as tokens: all sources one after the other, and all targets.

    Attributes:
        source_tokens: The sources' tokens.
        source_lengths: Number of tokens of each source.
        target_tokens: The targets' tokens.
        target_lengths: Number of tokens of each target.
    """

    source_tokens: Int[Tensor, " source_token"]
    source_lengths: Int[Tensor, " pair"]
    target_tokens: Int[Tensor, " target_token"]
    target_lengths: Int[Tensor, " pair"]

    def __len__(self) -> int:
        return len(self.source_lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of sources and targets together."""
        return len(self.source_tokens) + len(self.target_tokens)

    def sources(self) -> tuple[Int[Tensor, " token"], ...]:
        """The tokens of each source."""
        return self.source_tokens.split(self.source_lengths.tolist())

    def targets(self) -> tuple[Int[Tensor, " token"], ...]:
        """The tokens of each target."""
        return self.target_tokens.split(self.target_lengths.tolist())

    @classmethod
    def of(cls, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> TokenizedPairs:
        """The tokens of each source and of each target, as one."""
        return cls(
            torch.tensor([token for tokens in sources for token in tokens], dtype=torch.int32),
            torch.tensor([len(tokens) for tokens in sources], dtype=torch.int64),
            torch.tensor([token for tokens in targets for token in tokens], dtype=torch.int32),
            torch.tensor([len(tokens) for tokens in targets], dtype=torch.int64),
        )

    def save(self, path: Path) -> None:
        """Write the tokens to a safetensors file."""
        save_file({part.name: getattr(self, part.name) for part in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> TokenizedPairs:
        """Read what :meth:`save` wrote."""
        return cls(**load_file(path))


@dataclass(frozen=True)
class Cut:
    """What was left out of texts that are longer than a model may read or write.

    Attributes:
        num_sources: Sources that were cut.
        num_targets: Targets that were cut.
        num_tokens: Tokens that were left out, of both.
    """

    num_sources: int
    num_targets: int
    num_tokens: int

    def __str__(self) -> str:
        if not self.num_tokens:
            return "nothing was cut"
        return f"{self.num_sources:,} sources and {self.num_targets:,} targets were cut, by {self.num_tokens:,} tokens"


def tokenize_pairs(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, *, max_source_tokens: int, max_target_tokens: int
) -> tuple[TokenizedPairs, Cut]:
    """Tokenize pairs; of what is too long, the beginning is kept, and the token that ends a text.

    Every target ends with a token that says so. A source does where the tokenizer ends each text with one, as those of
    encoder-decoder models do; where it does not, a target goes on where its source ends, after a space.

    Args:
        pairs: Sources and targets.
        tokenizer: The tokenizer.
        max_source_tokens: Tokens of a source at most.
        max_target_tokens: Tokens of a target at most.

    Returns:
        The tokens, and what was cut.

    Raises:
        DataError: If a target is to begin with a token that the tokenizer has not.
    """
    sources, sources_cut, source_rest = encode_cut([pair.source for pair in pairs], tokenizer, max_source_tokens)
    encoded = _encode_targets(pairs, tokenizer) if pairs else []
    targets, targets_cut, target_rest = _cut(encoded, max_target_tokens, keeps_end=True)
    return TokenizedPairs.of(sources, targets), Cut(sources_cut, targets_cut, source_rest + target_rest)


def encode_cut(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[list[list[int]], int, int]:
    """Tokenize sources; of what is too long, the beginning is kept, and the token that ends it, if one does.

    Returns:
        The tokens of each text, how many texts were cut, and by how many tokens in all.
    """
    encoded: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    return _cut(encoded, max_tokens, keeps_end=ends_texts(tokenizer))


def ends_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer ends each text with a token of its own.

    Example:
        >>> from moesaic.data import train_pair_tokenizer, train_tokenizer
        >>> ends_texts(train_pair_tokenizer(["a dog"], 300)), ends_texts(train_tokenizer(["a dog"], 300))
        (True, False)
    """
    last: int = tokenizer("a", verbose=False)["input_ids"][-1]
    return last in tokenizer.all_special_ids


def _cut(encoded: list[list[int]], max_tokens: int, *, keeps_end: bool) -> tuple[list[list[int]], int, int]:
    too_long = [len(ids) for ids in encoded if len(ids) > max_tokens]
    end = 1 if keeps_end else 0
    kept = [ids if len(ids) <= max_tokens else [*ids[: max_tokens - end], *ids[len(ids) - end :]] for ids in encoded]
    return kept, len(too_long), sum(too_long) - max_tokens * len(too_long)


def first_target_tokens(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token with which each target begins; empty where they begin with what they say.

    Raises:
        DataError: If the tokenizer has no such token.
    """
    tokens = [pair.details[TARGET_TOKEN] for pair in pairs if TARGET_TOKEN in pair.details]
    vocabulary = tokenizer.get_vocab() if tokens else {}
    for token in dict.fromkeys(tokens):
        if token not in vocabulary:
            raise DataError(
                f"Targets are to begin with the token {token!r}, which the model's tokenizer has not. Change "
                "task.target_token or task.language_names as the model's card says."
            )
    return [vocabulary[token] for token in tokens]


def _encode_targets(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    targets = [pair.target for pair in pairs]
    if first := first_target_tokens(pairs, tokenizer):
        plain = tokenizer(targets, add_special_tokens=False, verbose=False)["input_ids"]
        return [[token, *ids, tokenizer.eos_token_id] for token, ids in zip(first, plain, strict=True)]
    if ends_texts(tokenizer):
        return tokenizer(text_target=targets, verbose=False)["input_ids"]
    sources = tokenizer([pair.source for pair in pairs], verbose=False)["input_ids"]
    joint = tokenizer([f"{pair.source} {pair.target}" for pair in pairs], verbose=False)["input_ids"]
    alone = tokenizer(targets, add_special_tokens=False, verbose=False)["input_ids"]
    # Where the two grow together into one token, the target is read by itself.
    return [
        [*(both[len(source) :] if both[: len(source)] == source else own), tokenizer.eos_token_id]
        for source, both, own in zip(sources, joint, alone, strict=True)
    ]


@dataclass(frozen=True)
class PairBatch:
    """Sources and targets to train on.

    Attributes:
        source_ids: What the encoder reads, ``(batch, source)``.
        source_mask: 1 for tokens and 0 for padding.
        labels: The target, ``NOT_SCORED`` after its end, ``(batch, target)``.
        domain_index: Which domain each pair comes from, ``(batch,)``.
    """

    source_ids: Int[Tensor, "batch source"]
    source_mask: Int[Tensor, "batch source"]
    labels: Int[Tensor, "batch target"]
    domain_index: Int[Tensor, " batch"]

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.source_ids.device

    def take(self, rows: slice | Tensor) -> PairBatch:
        """Some of the pairs."""
        return PairBatch(*(getattr(self, part.name)[rows] for part in fields(self)))

    def rows(self, first: int, end: int) -> PairBatch:
        """The pairs from one row to before another."""
        return self.take(slice(first, end))

    def to(self, device: Any) -> PairBatch:
        """The batch on another device."""
        return PairBatch(*(getattr(self, part.name).to(device) for part in fields(self)))


@dataclass(frozen=True, eq=False)
class PairSampler:
    """Draws the batch of each step: every pair once in an epoch, those of like lengths together.

    A batch is a function of the seed and the step alone.

    Attributes:
        domains: The pairs of each domain.
        batch_size: Pairs in a batch.
        pad_token_id: What fills sources up.
        seed: Makes the order.

    Raises:
        DataError: If there are fewer pairs than a batch has.
    """

    domains: Sequence[TokenizedPairs]
    batch_size: int
    pad_token_id: int
    seed: int

    def __post_init__(self) -> None:
        check_batch_size(self)

    @property
    def num_rows(self) -> int:
        """Number of pairs."""
        return len(self.lengths)

    @cached_property
    def lengths(self) -> Int[Tensor, "pair 2"]:
        """Tokens of each source and of its target."""
        return torch.cat([torch.stack([pairs.source_lengths, pairs.target_lengths], dim=1) for pairs in self.domains])

    @cached_property
    def _rows(self) -> list[tuple[Tensor, Tensor, int]]:
        return [
            (source, target, index)
            for index, domain in enumerate(self.domains)
            for source, target in zip(domain.sources(), domain.targets(), strict=True)
        ]

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of all sources and targets."""
        return int(self.lengths.sum())

    def batch(self, step: int) -> PairBatch:
        """The batch of a step."""
        rows = [self._rows[row] for row in draw_rows(self, step).tolist()]
        source_ids, source_mask = pad([source for source, _, _ in rows], self.pad_token_id)
        labels, _ = pad([target for _, target, _ in rows], NOT_SCORED)
        return PairBatch(source_ids, source_mask, labels, torch.tensor([domain for _, _, domain in rows]))


def pad(
    rows: Sequence[Int[Tensor, " _token"]], value: int, *, left: bool = False
) -> tuple[Int[Tensor, "row position"], Int[Tensor, "row position"]]:
    """Rows of different lengths as one tensor, and 1 where it holds tokens of theirs.

    Args:
        rows: The tokens of each row.
        value: What fills shorter rows up.
        left: Fill up before the tokens instead of after them, as causal models need it that go on writing.
    """
    side = "left" if left else "right"
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), True, value, padding_side=side).long()
    lengths = torch.tensor([len(row) for row in rows], device=padded.device).unsqueeze(1)  # (row, 1)
    from_its_side = torch.arange(padded.shape[1], device=padded.device)  # (position,)
    if left:
        from_its_side = from_its_side.flip(0)
    return padded, (from_its_side < lengths).long()
