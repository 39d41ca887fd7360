"""Does one extractive expert a document, chosen by a router, summarize five domains better than any single summarizer?

    python -m benchmarks.summarization

A scorer of sentences is trained on all domains, and an expert a domain goes on from it; the scorer that stands for all
goes on with all for as many steps. Each learns on validation documents how long its summaries are to be. The router is
a linear classifier of the document's text, trained on the domains' names. Two kinds of scorers are compared: one that
reads cheap features alone, and one that reads the words too, and small encoders if asked for (``--kinds encoder``).

Meetings are cut by ``lead_by_query`` before scorers read them; lead-3 and the oracle are taken from whole documents.
Where a domain has no test split, its validation split is the test, and a part of the training documents takes its
place. ROUGE is F1 in percent, with stemming, the highest over references; *mean* is that of ROUGE-1, -2 and -Lsum.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

from benchmarks.record import save
from moesaic.combiners import Average
from moesaic.data import Examples, JsonLines, train_tokenizer
from moesaic.members import (
    DocumentRouter,
    ExtractiveSummarizer,
    ModuleMember,
    PooledEncoder,
    SentenceScorer,
    choose_length,
    make_text_classifier,
    score_documents,
)
from moesaic.module_mixture import ModuleMixture
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import (
    Document,
    Rouge,
    Summarization,
    SummaryLength,
    cut_documents,
    greedy_oracle,
    lead,
    mean_rouge,
    rouge,
)
from moesaic.training import (
    Classification,
    LabelledDocuments,
    TrainingOptions,
    fit,
    fit_sentence_scorer,
    label_documents,
    sample_examples,
)

DATA = Path("../shared/data/summarization")
DOMAINS = ("scitldr", "qmsum_academic", "qmsum_product", "mts_dialog", "legal_contracts")
MAX_WORDS = 1500
HELD_OUT_PERCENT = 15

Summaries = Mapping[str, Sequence[Sequence[str]]]
"""Sentences of the summary of each test document, by domain."""


@dataclass(frozen=True)
class Corpus:
    """A domain's documents; those that scorers read are cut.

    Attributes:
        whole: The test documents before they were cut.
    """

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    whole: list[Document]


def read_corpus(folder: Path) -> Corpus:
    splits = {}
    for name in ("train", "validation", "test"):
        path = folder / f"{name}.jsonl.gz"
        if path.exists():
            splits[name] = [Summarization().document(row, place) for place, row in JsonLines(path).rows()]
    if "test" not in splits:
        splits["test"] = splits["validation"]
        splits["validation"] = [document for document in splits["train"] if is_held_out(document)]
        splits["train"] = [document for document in splits["train"] if not is_held_out(document)]
    unseen = {document.source for name in ("validation", "test") for document in splits[name]}
    num_train = len(splits["train"])
    splits["train"] = [document for document in splits["train"] if document.source not in unseen]
    cut = {}
    for name, documents in splits.items():
        cut[name], report = cut_documents(documents, policy="lead_by_query", max_tokens=MAX_WORDS)
        print(f"{folder.name}, {name}: {report}")
    print(
        f"{folder.name}: {num_train - len(splits['train'])} training documents stand elsewhere too, and were left out"
    )
    return Corpus(cut["train"], cut["validation"], cut["test"], splits["test"])


def is_held_out(document: Document) -> bool:
    digest = hashlib.blake2b(document.source.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 100 < HELD_OUT_PERCENT


def cues_only(texts: Sequence[str], seed: int) -> SentenceScorer:
    return SentenceScorer(hidden_size=64, seed=seed)


def cues_and_words(texts: Sequence[str], seed: int) -> SentenceScorer:
    words = make_text_classifier("word_average", texts, num_classes=32, seed=seed, encoder={"max_words": 64})
    return SentenceScorer(words, encoder_size=32, hidden_size=64, seed=seed)


def small_encoder(texts: Sequence[str], seed: int) -> SentenceScorer:
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts, vocab_size=4000)
    sizes = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes), add_pooling_layer=False)
    encoder = PooledEncoder(model, tokenizer, max_tokens=40)
    return SentenceScorer(encoder, encoder_size=96, hidden_size=64, num_context_layers=1, seed=seed)


KINDS: dict[str, tuple[Callable[[Sequence[str], int], SentenceScorer], float]] = {
    "cues": (cues_only, 3e-3),
    "words": (cues_and_words, 3e-3),
    "encoder": (small_encoder, 5e-4),
}
"""How a scorer of each kind is made, and its learning rate."""


@dataclass
class Bench:
    """The domains, and what is trained on them."""

    corpora: dict[str, Corpus]
    labelled: dict[str, LabelledDocuments]
    num_steps: int
    num_expert_steps: int
    seed: int = 0

    @property
    def everything(self) -> LabelledDocuments:
        first, *others = self.labelled.values()
        return sum(others, start=first)

    def fit(self, network: nn.Module, labelled: LabelledDocuments, num_steps: int, learning_rate: float) -> nn.Module:
        options = TrainingOptions(
            num_steps=num_steps, batch_size=16, learning_rate=learning_rate, seed=self.seed, precision="float32"
        )
        fit_sentence_scorer(network, labelled, options)
        return network

    def scorers(self, kind: str) -> tuple[nn.Module, dict[str, nn.Module]]:
        """The scorer for all domains, and the experts."""
        make, learning_rate = KINDS[kind]
        texts = [document.text for corpus in self.corpora.values() for document in corpus.train]
        begun = self.fit(make(texts, self.seed), self.everything, self.num_steps, learning_rate)
        experts = {
            name: self.fit(deepcopy(begun), labelled, self.num_expert_steps, learning_rate / 3)
            for name, labelled in self.labelled.items()
        }
        return self.fit(begun, self.everything, self.num_expert_steps, learning_rate / 3), experts

    def router(self) -> DocumentRouter:
        """A linear classifier of domains."""
        rows = [(document.source, index) for index, made in enumerate(self.corpora.values()) for document in made.train]
        texts = [text for text, _ in rows]
        encoder = {"pair_prefix": 0, "num_buckets": 2**14}
        classifier = make_text_classifier(
            "ngram_linear", texts, num_classes=len(self.corpora), seed=self.seed, encoder=encoder
        )
        examples = Examples(texts, torch.tensor([index for _, index in rows]))
        sampler = sample_examples(classifier, examples, batch_size=32, seed=self.seed)
        fit(classifier, sampler, Classification(), TrainingOptions(num_steps=300, learning_rate=5e-3, seed=self.seed))
        return DocumentRouter(classifier)

    def length(self, network: nn.Module, domains: Sequence[str]) -> SummaryLength:
        documents = [document for name in domains for document in self.corpora[name].validation]
        return choose_length(score_documents(network, documents), documents)

    def summarize(self, network: nn.Module, length: SummaryLength | Mapping[str, SummaryLength]) -> Summaries:
        summarizer = ExtractiveSummarizer(network, length)
        return {
            name: [summary.sentences for summary in summarizer(corpus.test)] for name, corpus in self.corpora.items()
        }

    def take(self, choose: Callable[[Document], Sequence[int]]) -> Summaries:
        return {
            name: [[document.sentences[index] for index in choose(document)] for document in corpus.whole]
            for name, corpus in self.corpora.items()
        }


def told(bench: Bench, networks: Mapping[str, nn.Module], lengths: Mapping[str, SummaryLength]) -> Summaries:
    """Each domain's documents by a network of its own, at a length of its own."""
    return {
        name: [summary.sentences for summary in ExtractiveSummarizer(networks[name], lengths[name])(corpus.test)]
        for name, corpus in bench.corpora.items()
    }


Scores = dict[str, np.ndarray]
"""The mean of ROUGE-1, -2 and -Lsum of each test document, by domain."""


@cache  # several rows of the table have summaries in common
def score_summary(sentences: tuple[str, ...], references: tuple[str, ...]) -> Rouge:
    return rouge(sentences, references)


def score(bench: Bench, summaries: Summaries) -> tuple[dict[str, str], Scores]:
    shown, scores = {}, {}
    for name, corpus in bench.corpora.items():
        pairs = zip(summaries[name], corpus.test, strict=True)
        found = [score_summary(tuple(summary), document.references) for summary, document in pairs]
        shown[name] = str(mean_rouge(found))
        scores[name] = np.array([row.mean for row in found])
    return shown, scores


def difference(first: Scores, second: Scores, domains: Sequence[str]) -> str:
    """How much higher the first is, the mean over domains, with a paired bootstrap's interval of 95%."""
    draw = np.random.default_rng(0)
    apart = [first[name] - second[name] for name in domains]
    resampled = [draw.choice(part, (2000, len(part))).mean(axis=1) for part in apart]
    low, high = np.percentile(np.mean(resampled, axis=0), [2.5, 97.5])
    return f"{np.mean([part.mean() for part in apart]):+.2f} [{low:+.2f}, {high:+.2f}]"


def router_accuracy(bench: Bench, router: nn.Module, networks: Mapping[str, nn.Module]) -> float:
    """Share of the test documents, domain by domain, that the router gives to their own expert."""
    mixture = RoutedMixture([ModuleMember(name, network) for name, network in networks.items()], router, top_k=1)
    shares = []
    for index, corpus in enumerate(bench.corpora.values()):
        scored = score_documents(mixture, corpus.test)
        shares.append(np.mean([int(np.argmax(row.weights)) == index for row in scored]))
    return float(np.mean(shares))


def run_kind(bench: Bench, kind: str, router: nn.Module) -> tuple[dict[str, Summaries], dict[str, Any]]:
    started = time.perf_counter()
    one, experts = bench.scorers(kind)
    domains = list(bench.corpora)
    lengths = {name: bench.length(experts[name], [name]) for name in domains}
    members = [ModuleMember(name, experts[name]) for name in domains]
    uniform = ModuleMixture(members, Average("probability"))
    rows = {f"{kind}: expert {name}": bench.summarize(experts[name], lengths[name]) for name in domains}
    rows |= {
        f"{kind}: one for all": bench.summarize(one, bench.length(one, domains)),
        f"{kind}: one for all, told the domain's length": told(
            bench, dict.fromkeys(domains, one), {name: bench.length(one, [name]) for name in domains}
        ),
        f"{kind}: all experts averaged": bench.summarize(uniform, bench.length(uniform, domains)),
        f"{kind}: routed mixture": bench.summarize(RoutedMixture(members, router, top_k=1), lengths),
        f"{kind}: oracle-routed": told(bench, experts, lengths),
    }
    facts = {
        "lengths": {name: str(length) for name, length in lengths.items()},
        "router_accuracy": router_accuracy(bench, router, experts),
        "seconds": round(time.perf_counter() - started),
    }
    print(kind, facts, flush=True)
    return rows, facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="The folder that has a folder a domain.")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["cues", "words"], help="Kinds of scorers.")
    parser.add_argument("--steps", type=int, default=400, help="Steps on all domains.")
    parser.add_argument("--expert-steps", type=int, default=150, help="Steps of each expert after these.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", default="summarization", help="Name of the record in benchmarks/results.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    corpora = {name: read_corpus(arguments.data / name) for name in DOMAINS}
    labelled = {name: label_documents(corpus.train, max_sentences=12) for name, corpus in corpora.items()}
    for name, documents in labelled.items():
        print(f"{name}: {documents}", flush=True)
    bench = Bench(corpora, labelled, arguments.steps, arguments.expert_steps, arguments.seed)

    summaries = {"lead-3": bench.take(lead), "oracle": bench.take(greedy_oracle)}
    router = bench.router()
    facts = {}
    for kind in arguments.kinds:
        rows, facts[kind] = run_kind(bench, kind, router)
        summaries |= rows
    table, scores = [], {}
    for name, made in summaries.items():
        shown, scores[name] = score(bench, made)
        means = {domain: values.mean() for domain, values in scores[name].items()}
        table.append({"summarizer": name} | shown | {"mean": float(np.mean(list(means.values())))})
    compared = {}
    for kind in arguments.kinds:
        mixture = scores[f"{kind}: routed mixture"]
        single = [name for name in scores if name.startswith(f"{kind}: expert") or name == f"{kind}: one for all"]
        best = max(single, key=lambda name: np.mean([values.mean() for values in scores[name].values()]))
        compared[f"{kind}: routed mixture against {best}"] = difference(mixture, scores[best], DOMAINS)
        for domain in DOMAINS:
            compared[f"{kind}: routed mixture against lead-3, {domain}"] = difference(
                mixture, scores["lead-3"], [domain]
            )
    for name, text in compared.items():
        print(f"{name}: {text}")
    save(arguments.record, table, command="summarization", seed=arguments.seed, compared=compared, kinds=facts)


if __name__ == "__main__":
    main()
