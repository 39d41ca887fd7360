"""Models that summarize by taking sentences of a document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from moesaic.answering import Answerer, SentenceAnswerer
from moesaic.combiners import Average
from moesaic.data import Examples, PairDomain
from moesaic.errors import DataError
from moesaic.members import (
    DocumentRouter,
    ModuleMember,
    SentenceScorer,
    choose_length,
    make_text_classifier,
    score_documents,
)
from moesaic.module_mixture import ModuleMixture
from moesaic.recipe.kinds.kind import Fit, ModelKind
from moesaic.recipe.model_sections import SentenceScorerSection
from moesaic.recipe.stage_work import SPLITS
from moesaic.recipe.task_build import build_task_options
from moesaic.recipe.task_schema import TaskTrainingSection
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import Document, SummaryLength, TaskSet, cut_documents, document_of, overlap
from moesaic.training import (
    Classification,
    DocumentSampler,
    LabelledDocuments,
    TrainingOptions,
    label_documents,
    sample_examples,
    sentence_ranking,
)

_MAX_ORACLE_SENTENCES = 12
"""Sentences that a scorer learns to take from a document, at most."""

_ROUTER_BUCKETS = 2**14
"""Numbers that a router's n-grams are hashed to."""


@dataclass(frozen=True)
class SentenceScorerKind(ModelKind):
    """Scorers of sentences; an expert also knows how long the summaries of its domain are."""

    answerer: ClassVar[type[Answerer]] = SentenceAnswerer

    @property
    def section(self) -> SentenceScorerSection:
        """What the recipe says of the models."""
        assert isinstance(self.recipe.model, SentenceScorerSection)
        return self.recipe.model

    @property
    def data_settings(self) -> Mapping[str, Any]:
        """See :attr:`ModelKind.data_settings`."""
        return {"cut": self.section.cut, "max_words": self.section.max_words}

    def count_parameters(self) -> int | None:
        """See :meth:`ModelKind.count_parameters`; a scorer that reads words has as many as there are words."""
        if "words" in self.section.features:
            return None
        return sum(parameter.numel() for parameter in self._new("cues", [], 0).parameters())

    def prepare(self, domains: Sequence[PairDomain], tasks: TaskSet, output: Path) -> Iterator[str]:
        """See :meth:`ModelKind.prepare`: documents, cut where too long, with the sentences that are to be taken."""
        for domain in domains:
            for split in SPLITS:
                documents, cut = self._cut([document_of(pair) for pair in getattr(domain, split)])
                yield f"{domain.name}, {split}: {cut}"
                if split == "train":
                    labelled = label_documents(documents, max_sentences=_MAX_ORACLE_SENTENCES)
                    yield f"{domain.name}, {split}: {labelled}"
                    _write_labelled(labelled, output / f"{domain.name}.labelled.json")

    def _cut(self, documents: Sequence[Document]) -> tuple[list[Document], Any]:
        return cut_documents(documents, policy=self.section.cut, max_tokens=self.section.max_words)

    def train(
        self,
        domains: Sequence[int],
        section: TaskTrainingSection,
        seed: int,
        fit: Fit,
        start: Answerer | None = None,
    ) -> Answerer:
        """See :meth:`ModelKind.train`: one scorer with each of the features, of which the best is kept.

        The best is the one whose summaries of validation documents overlap most with what people wrote, each at the
        length that suits it best.
        """
        assert start is None, "a recipe with such models has no seed"
        labelled = self._read_all(domains)
        texts = [document.text for document in labelled.documents]
        sampler = DocumentSampler(labelled, section.batch_size, seed)
        trained = []
        for features in self.section.features:
            network = self._new(features, texts, seed)
            part = features if len(self.section.features) > 1 else ""
            fit(network, sampler, sentence_ranking, _options(section, labelled.documents, seed), part=part)
            trained.append(self._answerer(network, domains))
        if len(trained) == 1:
            return trained[0]
        documents = self._validation(domains)
        return max(trained, key=lambda answerer: _total_overlap(answerer, documents))

    def _new(self, features: str, texts: Sequence[str], seed: int) -> SentenceScorer:
        section = self.section
        arguments: dict[str, Any] = {"hidden_size": section.hidden_size, "dropout": section.dropout, "seed": seed}
        if features == "cues":
            return SentenceScorer(**arguments)
        encoder = make_text_classifier(
            "word_average", texts, num_classes=section.words_size, seed=seed, encoder={"max_words": 64}
        )
        return SentenceScorer(encoder, encoder_size=section.words_size, **arguments)

    def train_router(self, experts: Mapping[str, Answerer], fit: Fit) -> Answerer:
        """See :meth:`ModelKind.train_router`: a linear classifier of the document's n-grams."""
        section, seed = self.recipe.router.training, self.recipe.random_seed
        domains = [self._read_all([index]).documents for index in range(len(experts))]
        documents = [document for domain in domains for document in domain]
        texts = [document.source for document in documents]
        encoder = {"pair_prefix": 0, "num_buckets": _ROUTER_BUCKETS}
        classifier = make_text_classifier("ngram_linear", texts, num_classes=len(experts), seed=seed, encoder=encoder)
        labels = torch.tensor([index for index, domain in enumerate(domains) for _ in domain])
        sampler = sample_examples(classifier, Examples(texts, labels), batch_size=section.batch_size, seed=seed)
        fit(classifier, sampler, Classification(), _options(section, documents, seed))
        mixture = RoutedMixture(_members(experts), DocumentRouter(classifier), top_k=1)
        lengths = {name: _length(expert) for name, expert in experts.items()}
        return SentenceAnswerer(mixture.eval(), lengths, self.section.cut, self.section.max_words)

    def train_jointly(self, mixture: Answerer, fit: Fit) -> Answerer:
        """See :meth:`ModelKind.train_jointly`: each expert learns what the router, which stays as it is, sends it."""
        section, seed = self.recipe.joint, self.recipe.random_seed
        labelled = self._read_all(range(len(self.recipe.domain_names)))
        sampler = DocumentSampler(labelled, section.batch_size, seed + 1)
        options = _options(section, labelled.documents, seed, scales={"router.*": 0.0})
        fit(mixture.network, sampler, sentence_ranking, options)
        network: Any = mixture.network
        lengths = {
            name: _length(self._answerer(member, [index]))
            for index, (name, member) in enumerate(zip(network.member_names, network.members, strict=True))
        }
        return SentenceAnswerer(network, lengths, self.section.cut, self.section.max_words)

    def average(self, members: Mapping[str, Answerer], domains: Sequence[int]) -> Answerer:
        """See :meth:`ModelKind.average`: of the distributions over sentences; the length is chosen anew."""
        return self._answerer(ModuleMixture(_members(members), Average("probability")).eval(), domains)

    def _answerer(self, network: nn.Module, domains: Sequence[int]) -> SentenceAnswerer:
        """A network with the length of summaries that suits it best on validation documents."""
        documents = self._validation(domains)
        length = choose_length(score_documents(network, documents), documents)
        return SentenceAnswerer(network, length, self.section.cut, self.section.max_words)

    def _validation(self, domains: Sequence[int]) -> list[Document]:
        pairs = [pair for index in domains for pair in self.pairs(index, "validation")]
        documents, _ = self._cut([document_of(pair) for pair in pairs])
        return documents

    def _read_all(self, domains: Sequence[int]) -> LabelledDocuments:
        """The training documents of some domains.

        Raises:
            DataError: If one of the domains has none.
        """
        found = []
        for index in domains:
            name = self.recipe.domain_names[index]
            found.append(_read_labelled(self.data / f"{name}.labelled.json"))
            if not len(found[-1]):
                raise DataError(
                    f"Domain {name!r} has no document to learn from: {found[-1]}. Check that documents and summaries "
                    "are of the same language."
                )
        return sum(found[1:], start=found[0])


def _options(
    section: TaskTrainingSection,
    documents: Sequence[Document],
    seed: int,
    scales: Mapping[str, float] | None = None,
) -> TrainingOptions:
    mean_words = round(sum(len(document.text.split()) for document in documents) / len(documents))
    return build_task_options(section, seed, sequence_length=mean_words, scales=scales)


def _members(answerers: Mapping[str, Answerer]) -> list[ModuleMember]:
    return [ModuleMember(name, answerer.network) for name, answerer in answerers.items()]


def _length(answerer: Answerer) -> SummaryLength:
    """How long the summaries of a single scorer are."""
    assert isinstance(answerer, SentenceAnswerer) and isinstance(answerer.length, SummaryLength)
    return answerer.length


def _total_overlap(answerer: SentenceAnswerer, documents: Sequence[Document]) -> float:
    answers = answerer.summarize(documents)
    return sum(
        overlap(answer.text.split("\n"), document.references)
        for answer, document in zip(answers, documents, strict=True)
    )


def _write_labelled(labelled: LabelledDocuments, path: Path) -> None:
    path.write_text(json.dumps(asdict(labelled), ensure_ascii=False), encoding="utf-8")


def _read_labelled(path: Path) -> LabelledDocuments:
    values = json.loads(path.read_text(encoding="utf-8"))
    documents = tuple(
        Document(**(document | {"references": tuple(document["references"])})) for document in values["documents"]
    )
    return LabelledDocuments(documents, tuple(map(tuple, values["oracles"])), values["num_left_out"])
