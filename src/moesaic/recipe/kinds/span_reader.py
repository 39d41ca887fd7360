"""Models that read the answer to a question in the text that it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, PreTrainedTokenizerBase

from moesaic.answering import Answerer, SpanAnswerer
from moesaic.combiners import Average
from moesaic.data import Pair, PairDomain, train_reader_tokenizer
from moesaic.errors import DataError, IncompatibleMembersError
from moesaic.members import ModuleMember, SpanReader, TokenRouter, load_span_reader, read_checkpoint
from moesaic.module_mixture import ModuleMixture
from moesaic.recipe.build import resolve_checkpoint
from moesaic.recipe.kinds.kind import Fit, ModelKind
from moesaic.recipe.model_sections import SpanReaderSection
from moesaic.recipe.stage_work import SPLITS
from moesaic.recipe.task_build import build_task_options
from moesaic.recipe.task_schema import TaskTrainingSection
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import Question, TaskSet, count_questions, question_of
from moesaic.training import (
    Classification,
    TrainingOptions,
    sample_span_domains,
    sample_spans,
    span_extraction,
)


@dataclass(frozen=True)
class SpanReaderKind(ModelKind):
    """Encoders with a span head, from scratch or started from one encoder; all share one tokenizer."""

    answerer: ClassVar[type[Answerer]] = SpanAnswerer

    @property
    def section(self) -> SpanReaderSection:
        """What the recipe says of the models."""
        assert isinstance(self.recipe.model, SpanReaderSection)
        return self.recipe.model

    @property
    def encoder(self) -> str | None:
        """The checkpoint that every model starts from; ``None`` from scratch."""
        given = self.section.encoder
        return None if given is None else resolve_checkpoint(given, self.recipe_folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that all models share."""
        return AutoTokenizer.from_pretrained(self.data / "tokenizer")

    @property
    def data_settings(self) -> Mapping[str, Any]:
        """See :attr:`ModelKind.data_settings`."""
        return {"encoder": self.section.encoder}

    def count_parameters(self) -> int | None:
        """See :meth:`ModelKind.count_parameters`; with as many tokens as the recipe allows."""
        if self.encoder is not None:
            return None
        with torch.device("meta"):
            network = BertForQuestionAnswering(self._config(self.recipe.data.vocab_size, pad_token_id=0))
        return sum(parameter.numel() for parameter in network.parameters())

    def note(self, pairs: Sequence[Pair]) -> str:
        """See :meth:`ModelKind.note`: how many questions cannot be answered from their texts."""
        counts = count_questions([question_of(pair) for pair in pairs])
        return str(counts) if counts.num_lost or counts.num_without_answer else ""

    def prepare(self, domains: Sequence[PairDomain], tasks: TaskSet, output: Path) -> Iterator[str]:
        """See :meth:`ModelKind.prepare`: a tokenizer where no model brings one."""
        self._make_tokenizer(domains).save_pretrained(output / "tokenizer")
        for domain in domains:
            for split in SPLITS:
                questions = [question_of(pair) for pair in getattr(domain, split)]
                yield f"{domain.name}, {split}: {count_questions(questions)}"

    def _make_tokenizer(self, domains: Sequence[PairDomain]) -> PreTrainedTokenizerBase:
        for place in self.given_checkpoints.values():
            return _tokenizer(self.load(place))
        if self.encoder is not None:
            return AutoTokenizer.from_pretrained(read_checkpoint(self.encoder).path)
        pairs = (pair for domain in domains for pair in domain.train)
        texts = (text for pair in pairs for text in (pair.details["question"], pair.text))
        return train_reader_tokenizer(texts, self.recipe.data.vocab_size)

    def train(
        self,
        domains: Sequence[int],
        section: TaskTrainingSection,
        seed: int,
        fit: Fit,
        start: Answerer | None = None,
    ) -> Answerer:
        """See :meth:`ModelKind.train`; questions whose answer is not in their text are left out."""
        torch.manual_seed(seed)
        answerer = self._answerer(self._new()) if start is None else start
        assert isinstance(answerer, SpanAnswerer)
        questions = [question for index in domains for question in self._to_learn_from(index)]
        sampler = sample_spans(answerer.windows(questions), batch_size=section.batch_size, seed=seed)
        fit(answerer.network, sampler, span_extraction, self._options(section, seed))
        return answerer

    def _new(self) -> SpanReader:
        if self.encoder is not None:
            return load_span_reader(self.encoder)
        return SpanReader(BertForQuestionAnswering(self._config(len(self.tokenizer), self.tokenizer.pad_token_id)))

    def train_router(self, experts: Mapping[str, Answerer], fit: Fit) -> Answerer:
        """See :meth:`ModelKind.train_router`: a logistic regression on the tokens of a question's first window."""
        section, seed = self.recipe.router.training, self.recipe.random_seed
        router = TokenRouter(len(self.tokenizer), len(experts))
        answerer = self._answerer(RoutedMixture(_members(experts), router, top_k=1).eval())
        domains = [self._to_learn_from(index) for index in range(len(experts))]
        windows = answerer.windows([question for domain in domains for question in domain])
        labels = torch.tensor([index for index, domain in enumerate(domains) for _ in domain])
        sampler = sample_span_domains(windows, labels, batch_size=section.batch_size, seed=seed)
        fit(router, sampler, Classification(), self._options(section, seed))
        return answerer

    def train_jointly(self, mixture: Answerer, fit: Fit) -> Answerer:
        """See :meth:`ModelKind.train_jointly`: each expert learns what the router, which stays as it is, sends it."""
        section, seed = self.recipe.joint, self.recipe.random_seed
        answerer = self._answerer(mixture.network)
        domains = range(len(self.recipe.domain_names))
        questions = [question for index in domains for question in self._to_learn_from(index)]
        sampler = sample_spans(answerer.windows(questions), batch_size=section.batch_size, seed=seed + 1)
        fit(mixture.network, sampler, span_extraction, self._options(section, seed, {"router.*": 0.0}))
        return answerer

    def average(self, members: Mapping[str, Answerer], domains: Sequence[int]) -> Answerer:
        """See :meth:`ModelKind.average`: of the distributions over where answers begin and end."""
        return self._answerer(ModuleMixture(_members(members), Average("probability")).eval())

    def _answerer(self, network: nn.Module) -> SpanAnswerer:
        section = self.section
        return SpanAnswerer(network, self.tokenizer, section.max_length, section.stride, section.max_answer_tokens)

    def _to_learn_from(self, domain: int) -> list[Question]:
        """The training questions of a domain whose answers stand in their texts.

        Raises:
            DataError: If there is none.
        """
        questions = [question_of(pair) for pair in self.pairs(domain, "train")]
        found = [question for question in questions if not question.is_lost]
        if not found:
            name = self.recipe.domain_names[domain]
            raise DataError(
                f"Domain {name!r} has no question to learn from: {count_questions(questions)}. Give rows whose answers "
                "are spans of their context, or use `model: {type: encoder_decoder}`, whose models write."
            )
        return found

    def _config(self, vocab_size: int, pad_token_id: int) -> BertConfig:
        section = self.section
        return BertConfig(
            vocab_size=vocab_size,
            hidden_size=section.hidden_size,
            intermediate_size=section.intermediate_size,
            num_hidden_layers=section.num_hidden_layers,
            num_attention_heads=section.num_attention_heads,
            hidden_dropout_prob=section.dropout,
            attention_probs_dropout_prob=section.dropout,
            max_position_embeddings=section.max_length,
            pad_token_id=pad_token_id,
        )

    def _options(
        self, section: TaskTrainingSection, seed: int, scales: Mapping[str, float] | None = None
    ) -> TrainingOptions:
        return build_task_options(section, seed, sequence_length=self.section.max_length, scales=scales)


def _members(answerers: Mapping[str, Answerer]) -> list[ModuleMember]:
    vocabularies = {name: _tokenizer(answerer).get_vocab() for name, answerer in answerers.items()}
    first = next(iter(answerers))
    for name, vocabulary in vocabularies.items():
        if vocabulary != vocabularies[first]:
            raise IncompatibleMembersError(
                f"{name} and {first} have different tokens, and readers can only be combined that read the same ones. "
                "Train them from one tokenizer."
            )
    return [ModuleMember(name, answerer.network) for name, answerer in answerers.items()]


def _tokenizer(answerer: Answerer) -> PreTrainedTokenizerBase:
    assert isinstance(answerer, SpanAnswerer)
    return answerer.tokenizer
