"""Answers that are written token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moesaic.answering.answerer import Answered, Answerer
from moesaic.combiners import BySource
from moesaic.data import Pair, encode_cut, first_target_tokens, pad, tokenize_pairs
from moesaic.errors import CheckpointError
from moesaic.members import (
    AdaptedLM,
    CausalLM,
    Decoding,
    is_adapter,
    load_adapter_members,
    load_network,
    load_tokenizer,
    log_probabilities,
    named_backbone,
    read_checkpoint,
    save_adapter,
    score_targets,
    write_from_tokens,
)
from moesaic.mixture import Mixture
from moesaic.moe import save_model
from moesaic.tasks import encode_prompts, end_of_turn, tokenize_chats


@dataclass(frozen=True)
class WritingAnswerer(Answerer):
    """Writes its answers; to a question that comes with choices, it gives the likeliest of them.

    Attributes:
        network: An encoder-decoder model or a causal one, or a mixture of either.
        tokenizer: Its tokenizer, which knows as ``model_max_length`` how much of a source is read.
        decoding: How it writes; not saved.
    """

    word: ClassVar[str] = "writing"

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    decoding: Decoding = field(default_factory=Decoding)

    def answer(self, pairs: Sequence[Pair]) -> list[Answered]:
        """See :meth:`Answerer.answer`; of sources that are too long, the beginning is read, or the latest turns."""
        network: Any = self.network
        sources = self._encode(pairs)
        texts = self._choose(pairs) if pairs and "choices" in pairs[0].details else self._write(pairs, sources)
        if not self.chooses_one:
            return [Answered(text) for text in texts]
        return [
            Answered(text, dict(zip(network.member_names, row, strict=True)))
            for text, row in zip(texts, self._route(sources).tolist(), strict=True)
        ]

    def score(self, pairs: Sequence[Pair]) -> list[tuple[float, int]] | None:
        """See :meth:`Answerer.score`; of causal models, each of which scores the pairs that it would answer."""
        network: Any = self.network
        if network.config.is_encoder_decoder:
            return None
        tokenize = tokenize_chats if self.chats else tokenize_pairs
        limits = {
            "max_source_tokens": self.tokenizer.model_max_length,
            "max_target_tokens": self.decoding.max_new_tokens,
        }
        tokens, _ = tokenize(pairs, self.tokenizer, **limits)
        sources, targets = ([row.tolist() for row in rows] for rows in (tokens.sources(), tokens.targets()))
        if not self.chooses_one:
            return self._score(network, sources, targets)
        scored: list[tuple[float, int]] = [(0.0, 0)] * len(pairs)
        chosen = self._route(sources).argmax(dim=-1)
        for member in chosen.unique().tolist():
            rows = (chosen == member).nonzero().flatten().tolist()
            its = self._score(network.members[member], [sources[row] for row in rows], [targets[row] for row in rows])
            for row, score in zip(rows, its, strict=True):
                scored[row] = score
        return scored

    def _score(
        self, network: Any, sources: Sequence[list[int]], targets: Sequence[list[int]]
    ) -> list[tuple[float, int]]:
        member, size = CausalLM("member", network, self.tokenizer), self.decoding.batch_size
        pieces = list(zip(sources, targets, strict=True))
        batches = (log_probabilities(member, pieces[start : start + size]) for start in range(0, len(pieces), size))
        return [(score, len(target)) for score, target in zip(chain.from_iterable(batches), targets, strict=True)]

    @property
    def chats(self) -> bool:
        """Whether it reads sources in its tokenizer's chat template, as causal models do that have one."""
        network: Any = self.network
        return bool(self.tokenizer.chat_template) and not network.config.is_encoder_decoder

    @property
    def end_tokens(self) -> list[int]:
        """The tokens that end an answer in a conversation: the template's, and those that the network knows itself."""
        network: Any = self.network
        known = network.generation_config.eos_token_id
        known = [] if known is None else known if isinstance(known, list) else [known]
        return list(dict.fromkeys([end_of_turn(self.tokenizer), *known]))

    def _encode(self, pairs: Sequence[Pair]) -> list[list[int]]:
        """The tokens that are read of each pair."""
        max_tokens = self.tokenizer.model_max_length
        if self.chats:
            return encode_prompts(pairs, self.tokenizer, max_tokens)[0]
        return encode_cut([pair.source for pair in pairs], self.tokenizer, max_tokens)[0]

    @torch.no_grad()
    def _route(self, sources: Sequence[Sequence[int]]) -> Float[Tensor, "source member"]:
        network: Any = self.network
        source_ids, mask = pad([torch.tensor(tokens) for tokens in sources], self.tokenizer.pad_token_id)
        weights: Tensor = network.combiner.route_source(source_ids, mask.bool()).weights
        return weights

    def _write(self, pairs: Sequence[Pair], sources: Sequence[list[int]]) -> list[str]:
        return write_from_tokens(
            self.network,
            self.tokenizer,
            sources,
            self.decoding,
            end_tokens=self.end_tokens if self.chats else None,
            first_tokens=first_target_tokens(pairs, self.tokenizer),
        )

    def _choose(self, pairs: Sequence[Pair]) -> list[str]:
        choices = [pair.details["choices"] for pair in pairs]
        scores = score_targets(
            self.network,
            self.tokenizer,
            [pair.source for pair in pairs],
            choices,
            max_source_tokens=self.tokenizer.model_max_length,
            max_target_tokens=self.decoding.max_new_tokens,
            normalization=pairs[0].details["normalization"],
            batch_size=self.decoding.batch_size,
        )
        return [given[place] for given, place in zip(choices, scores.argmax(dim=1).tolist(), strict=True)]

    @property
    def chooses_one(self) -> bool:
        """See :attr:`Answerer.chooses_one`."""
        return isinstance(self.network, Mixture) and isinstance(self.network.combiner, BySource)

    def save(self, folder: Path) -> None:
        """See :meth:`Answerer.save`; a plain Transformers checkpoint, or an adapter as PEFT writes it."""
        if self.chats:  # which plain Transformers is to know, too
            self.network.generation_config.eos_token_id = self.end_tokens
        if isinstance(self.network, AdaptedLM):
            save_adapter(self.network.backbone, self.network.adapter, folder)
        else:
            save_model(self.network, folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See :meth:`Answerer.load`.

        Raises:
            CheckpointError: If the checkpoint is damaged, has no tokenizer, or holds no model that writes to a source.
        """
        tokenizer = load_tokenizer(folder)
        if not is_adapter(folder):
            return cls(load_network(read_checkpoint(folder).path, dtype=None), tokenizer)
        place = named_backbone(folder)
        if place is None:
            raise CheckpointError(f"{folder}: this is an adapter, and names no model that it is for.")
        [member] = load_adapter_members(place, {"expert": folder})
        return cls(member.network, tokenizer)
