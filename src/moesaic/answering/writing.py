"""Answers that are written token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moesaic.answering.answerer import Answered, Answerer
from moesaic.combiners import BySource
from moesaic.data import Pair, encode_cut, pad
from moesaic.errors import CheckpointError
from moesaic.members import Decoding, load_member, score_targets, write_targets
from moesaic.mixture import Mixture
from moesaic.moe import save_model


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
        """See :meth:`Answerer.answer`; of sources that are too long, the beginning is read."""
        sources = [pair.source for pair in pairs]
        max_tokens = self.tokenizer.model_max_length
        if pairs and "choices" in pairs[0].details:
            texts = self._choose(pairs, max_tokens)
        else:
            texts = write_targets(self.network, self.tokenizer, sources, self.decoding, max_source_tokens=max_tokens)
        if not self.chooses_one:
            return [Answered(text) for text in texts]
        network: Any = self.network
        encoded, _, _ = encode_cut(sources, self.tokenizer, max_tokens)
        source_ids, mask = pad([torch.tensor(ids) for ids in encoded], self.tokenizer.pad_token_id)
        with torch.no_grad():
            weights = network.combiner.route_source(source_ids, mask.bool()).weights.tolist()
        return [
            Answered(text, dict(zip(network.member_names, row, strict=True)))
            for text, row in zip(texts, weights, strict=True)
        ]

    def _choose(self, pairs: Sequence[Pair], max_source_tokens: int) -> list[str]:
        choices = [pair.details["choices"] for pair in pairs]
        scores = score_targets(
            self.network,
            self.tokenizer,
            [pair.source for pair in pairs],
            choices,
            max_source_tokens=max_source_tokens,
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
        """See :meth:`Answerer.save`; a plain Transformers checkpoint."""
        save_model(self.network, folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See :meth:`Answerer.load`.

        Raises:
            CheckpointError: If the checkpoint is damaged, has no tokenizer, or holds no model that writes to a source.
        """
        member = load_member(folder)
        if member.tokenizer is None:
            raise CheckpointError(f"{folder}: there is no tokenizer, so text cannot be read.")
        return cls(member.network, member.tokenizer)
