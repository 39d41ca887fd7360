"""CLINC150 with an expert a domain and a router: does knowing the ten domains help to tell 150 intents apart?

    python -m benchmarks.intent_mixture

Every network is the cheap member of :mod:`benchmarks.intents` (hashed n-grams with a linear head), trained for as many
passes over its own rows; ten experts together read what the one model for all intents reads. Rows: experts that give
scores to all intents, or to those of their own domain alone (hierarchical: domain, then intent); a router that was
trained on the domains' names, an oracle that knows them, and domains that nobody named: clusters of the queries' words,
all of the same size.
Figures are those of the test split, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import normalized_mutual_info_score
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor, nn

from benchmarks.intent_data import OUT_OF_SCOPE, Intents, count_parameters, read_intents
from benchmarks.intent_members import NGRAM_LINEAR, network_learner
from benchmarks.intents import DATA, summarize
from benchmarks.record import save
from moesaic.arena import score_classifier
from moesaic.data import Examples, find_clusters
from moesaic.members import ModuleMember
from moesaic.routed_mixture import RoutedMixture
from moesaic.training import predict_logits

NUM_EPOCHS = 12
NUM_DOMAINS = 10
RULED_OUT = -20.0
"""Score of an intent that an expert does not have: nearly impossible, so that the likelihood stays finite."""

Figures = dict[str, float]


class OwnIntents(nn.Module):
    """An expert for some of the intents, with scores for all."""

    def __init__(self, network: nn.Module, intents: Tensor) -> None:
        super().__init__()
        self.network = network
        self.intents = intents

    def forward(self, texts: Sequence[str]) -> Tensor:
        own = self.network(texts).log_softmax(dim=-1)
        return own.new_full((len(texts), OUT_OF_SCOPE), RULED_OUT).index_copy(1, self.intents, own)


def train(examples: Examples, num_classes: int, seed: int) -> nn.Module:
    learner = network_learner(num_classes, num_epochs=NUM_EPOCHS, num_rows=len(examples), **NGRAM_LINEAR)
    return learner(examples, seed=seed).eval()


def train_experts(intents: Intents, groups: Tensor, seed: int) -> list[nn.Module]:
    """One expert a group of training rows, with scores for all intents."""
    return [train(_rows(intents.train, groups == group), OUT_OF_SCOPE, seed) for group in range(NUM_DOMAINS)]


def train_own_experts(intents: Intents, seed: int) -> list[nn.Module]:
    """One expert a domain, which tells that domain's intents apart."""
    experts: list[nn.Module] = []
    for domain in range(NUM_DOMAINS):
        own = (intents.domain_of == domain).nonzero().squeeze(1)
        rows = _rows(intents.train, torch.isin(intents.train.labels, own))
        labels = torch.searchsorted(own, rows.labels)
        experts.append(OwnIntents(train(Examples(rows.inputs, labels), len(own), seed), own))
    return experts


def _rows(examples: Examples, chosen: Tensor) -> Examples:
    return examples.take(chosen.nonzero().squeeze(1).numpy())


def cluster_queries(intents: Intents) -> Tensor:
    """Domains that nobody named, of the training rows."""
    vectorizer = CountVectorizer(token_pattern=r"\w+").fit(intents.train.inputs)
    vocabulary, analyze = vectorizer.vocabulary_, vectorizer.build_analyzer()
    documents = [[vocabulary[word] for word in analyze(text)] for text in intents.train.inputs]
    clusters = find_clusters(documents, NUM_DOMAINS, vocab_size=len(vocabulary))
    return torch.from_numpy(clusters.nearest(documents))


class KnownDomains(nn.Module):
    """The oracle: a router that is told the domain of every test query."""

    def __init__(self, intents: Intents) -> None:
        super().__init__()
        domains = intents.domain_of[intents.test.labels].tolist()
        self.domains = dict(zip(intents.test.inputs, domains, strict=True))

    def forward(self, texts: Sequence[str]) -> Tensor:
        known = torch.tensor([self.domains[text] for text in texts])
        return 100.0 * nn.functional.one_hot(known, NUM_DOMAINS)


def figures(network: nn.Module, intents: Intents, seconds: float, active: float) -> Figures:
    scores = score_classifier(predict_logits(network, intents.test.inputs), intents.test.labels)
    return {
        "accuracy": 100 * scores.accuracy,
        "macro precision": 100 * scores.macro_precision,
        "macro recall": 100 * scores.macro_recall,
        "macro F1": 100 * scores.macro_f1,
        "nats": scores.nats,
        "router: accuracy": float("nan"),
        "router: precision": float("nan"),
        "router: recall": float("nan"),
        "router: F1": float("nan"),
        "M active": active / 1e6,
        "CPU seconds": seconds,
    }


def router_figures(router: nn.Module, intents: Intents) -> Figures:
    """The router as a classifier of domains."""
    domains = intents.domain_of[intents.test.labels]
    scores = score_classifier(predict_logits(router, intents.test.inputs), domains)
    return {
        "router: accuracy": 100 * scores.accuracy,
        "router: precision": 100 * scores.macro_precision,
        "router: recall": 100 * scores.macro_recall,
        "router: F1": 100 * scores.macro_f1,
    }


def measure(intents: Intents, clusters: Tensor, seed: int) -> dict[str, Figures]:
    """Every row of one seed."""
    torch.set_num_threads(1)

    def timed(make: Callable[[], list[nn.Module]]) -> tuple[list[nn.Module], float]:
        started = time.process_time()
        return make(), time.process_time() - started

    train_rows = intents.train
    domains = intents.domain_of[train_rows.labels]
    routers = {
        "named": timed(lambda: [train(Examples(train_rows.inputs, domains), NUM_DOMAINS, seed)]),
        "found": timed(lambda: [train(Examples(train_rows.inputs, clusters), NUM_DOMAINS, seed)]),
    }
    flat, flat_seconds = timed(lambda: [train(train_rows, OUT_OF_SCOPE, seed)])
    experts = {
        "experts of all intents": timed(lambda: train_experts(intents, domains, seed)),
        "experts of their own intents": timed(lambda: train_own_experts(intents, seed)),
        "experts of found domains": timed(lambda: train_experts(intents, clusters, seed)),
    }
    made = {"one model, all domains": figures(flat[0], intents, flat_seconds, count_parameters(flat[0]))}
    networks, seconds = experts["experts of all intents"]
    alone = [figures(expert, intents, seconds / NUM_DOMAINS, count_parameters(expert)) for expert in networks]
    made["best expert alone"] = max(alone, key=lambda row: row["accuracy"])
    for name, (networks, seconds) in experts.items():
        (router,), router_seconds = routers["found" if "found" in name else "named"]
        members = [ModuleMember(f"expert-{number}", network) for number, network in enumerate(networks)]
        size = count_parameters(networks[0])
        known = {} if "found" in name else router_figures(router, intents)
        for top_k in (1, 2, None):
            mixture = RoutedMixture(members, router, top_k=top_k)
            active = count_parameters(router) + (top_k or NUM_DOMAINS) * size
            asked = "all weighted" if top_k is None else f"top {top_k}"
            made[f"{name}, {asked}"] = figures(mixture, intents, seconds + router_seconds, active) | known
        if "found" not in name:
            oracle = RoutedMixture(members, KnownDomains(intents), top_k=1)
            made[f"{name}, domain known"] = figures(oracle, intents, seconds, size)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="The folder of CLINC150.")
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds.")
    parser.add_argument("--processes", type=int, default=2, help="Seeds side by side, one thread each.")
    arguments = parser.parse_args()
    intents = read_intents(arguments.data)
    clusters = cluster_queries(intents)
    run = partial(measure, intents, clusters)
    runs = Parallel(n_jobs=arguments.processes)(delayed(run)(seed) for seed in range(arguments.seeds))
    table = []
    for name in runs[0]:
        row = summarize([made[name] for made in runs])
        table.append({"method": name} | {key: "" if "nan" in str(value) else value for key, value in row.items()})
    domains = intents.domain_of[intents.train.labels]
    save(
        "intent_mixture",
        table,
        command="intent_mixture",
        seeds=arguments.seeds,
        shared_information_of_found_domains=normalized_mutual_info_score(domains.numpy(), clusters.numpy()),
        sizes_of_found_domains=np.bincount(clusters.numpy()).tolist(),
    )


if __name__ == "__main__":
    main()
