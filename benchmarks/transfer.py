"""Where should experts start: from nothing, from a seed, from somebody's checkpoint, or as adapters on one backbone?

    python -m benchmarks.transfer --text ../shared/data/lm

Experts for four domains of real text, all of one shape, each start with the same total of training tokens:

- *scratch*: every expert begins with random weights and gets its share of what the seed would have cost.
- *seed*: one model is trained on all domains, and every expert is a branch of it.
- *user's checkpoint*: the same, from a model that was trained on other text (Wikipedia, WikiText-2) with the same
  tokenizer, for as long as the seed. It was there already, so the experts get the seed's tokens too.
- *LoRA*: adapters on the frozen seed, for as many tokens as its branches; for as much time as its branches, where a
  step takes longer; and with the embeddings, which are the output layer too, trained beside them.

Losses are in nats per token on test documents: *own* is every domain read by its own expert, the mean over domains; the
mixture is the posterior over the four. What has to be held to train is weights, gradients and AdamW's two moments in
float32; what has to be held to answer is every parameter of the mixture, once.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.record import save
from moesaic.arena import measure, total_parameters
from moesaic.combiners import Posterior
from moesaic.data import (
    BatchSampler,
    Domain,
    EvaluationBlocks,
    JsonLines,
    PackedDocuments,
    evaluation_blocks,
    load_domain,
    pack_documents,
    tokenize_domain,
    train_tokenizer,
)
from moesaic.members import CausalLM, adapter_members, adapter_only, add_adapter, embedding_scales, merge_adapter
from moesaic.mixture import Mixture
from moesaic.recipe.build import build_seed
from moesaic.recipe.schema import SeedSection
from moesaic.training import TrainingOptions, fit, language_modeling
from moesaic.training.options import scale_of

DOMAINS = ("biomedical", "drama", "math", "meetings")
SHAPE = SeedSection(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2)
VOCAB_SIZE = 1024
SEQUENCE_LENGTH, BATCH_SIZE = 128, 8
LEARNING_RATE = 4e-3
MAX_BYTES = 1_000_000
TEST_TOKENS = 8192
RANK = 8

Scales = Mapping[str, float]


@dataclass(frozen=True)
class Text:
    """What is trained and measured on."""

    tokenizer: PreTrainedTokenizerBase
    train: dict[str, PackedDocuments]
    elsewhere: PackedDocuments
    test: dict[str, EvaluationBlocks]


def read_text(folder: Path) -> Text:
    domains = [read_domain(folder / "multidomain", name) for name in DOMAINS]
    tokenizer = train_tokenizer((document for domain in domains for document in domain.train), VOCAB_SIZE)
    tokenized = [tokenize_domain(domain, tokenizer, sequence_length=SEQUENCE_LENGTH) for domain in domains]
    elsewhere = [
        document
        for split in ("validation", "test")
        for document in JsonLines(folder / "wikitext2" / f"{split}.jsonl.gz").documents()
    ]
    test = {
        domain.name: evaluation_blocks(domain.test, sequence_length=SEQUENCE_LENGTH, max_tokens=TEST_TOKENS)
        for domain in tokenized
    }
    return Text(
        tokenizer, {domain.name: domain.train for domain in tokenized}, pack_documents(elsewhere, tokenizer), test
    )


def read_domain(folder: Path, name: str) -> Domain:
    train, validation, test = (
        JsonLines(folder / f"{split}.jsonl.gz", where={"domain": name}) for split in ("train", "validation", "test")
    )
    return load_domain(name, train, validation=validation, test=test, max_bytes=MAX_BYTES)


@dataclass(frozen=True)
class Experts:
    """Experts that began in one way, and what they took.

    Attributes:
        members: One a domain.
        tokens: Tokens that all of them and what they began from were trained on; a user's checkpoint is not counted.
        trained: Parameters of an expert that were trained.
        frozen: Parameters that it was trained with besides.
        seconds: Time that the training of one took.
    """

    members: list[CausalLM]
    tokens: int
    trained: int
    frozen: int
    seconds: float

    @property
    def held_bytes(self) -> int:
        """What had to be held to train one: weights, and of those trained, gradients and two moments."""
        return 16 * self.trained + 4 * self.frozen


@dataclass(frozen=True)
class Bench:
    """One random seed of the benchmark.

    Attributes:
        text: What is trained and measured on.
        random_seed: Makes weights and batches.
        seed_steps: Steps that the seed is trained.
        expert_steps: Steps that each branch of it is trained.
    """

    text: Text
    random_seed: int
    seed_steps: int
    expert_steps: int

    @property
    def share(self) -> int:
        """Steps that an expert gets besides where no seed is trained."""
        return self.seed_steps // len(DOMAINS)

    @cached_property
    def seed(self) -> PreTrainedModel:
        """The model that was trained on all domains."""
        network = self.new(0)
        self.train(network, list(self.text.train.values()), self.seed_steps)
        return network

    @cached_property
    def checkpoint(self) -> PreTrainedModel:
        """The model that a user has, trained on other text."""
        network = self.new(1)
        self.train(network, [self.text.elsewhere], self.seed_steps)
        return network

    @cached_property
    def branches(self) -> Experts:
        """The experts that began from the seed."""
        return self.apart(lambda _: copy.deepcopy(self.seed), self.expert_steps, self.seed_steps)

    def experts(self) -> Iterator[tuple[str, Experts]]:
        """The experts of every start."""
        from_scratch = self.expert_steps + self.share
        yield "scratch", self.apart(lambda number: self.new(2 + number), from_scratch)
        yield "user's checkpoint", self.apart(lambda _: copy.deepcopy(self.checkpoint), from_scratch)
        yield "seed", self.branches
        adapters = self.adapters(self.expert_steps)
        yield "LoRA, same tokens", adapters
        yield (
            "LoRA, same time",
            self.adapters(round(self.expert_steps * min(1.0, self.branches.seconds / adapters.seconds))),
        )
        yield "LoRA and embeddings", self.adapters_and_embeddings(self.expert_steps)

    def new(self, number: int) -> PreTrainedModel:
        """A model with random weights; another for each number."""
        return build_seed(SHAPE, self.text.tokenizer, SEQUENCE_LENGTH, 100 * self.random_seed + number)

    def train(
        self, network: PreTrainedModel, texts: list[PackedDocuments], num_steps: int, scales: Scales | None = None
    ) -> float:
        """Train a model in place; returns the seconds."""
        options = TrainingOptions(
            num_steps=num_steps,
            batch_size=BATCH_SIZE,
            sequence_length=SEQUENCE_LENGTH,
            learning_rate=LEARNING_RATE,
            learning_rate_scales=scales or {},
            seed=self.random_seed,
        )
        sampler = BatchSampler(texts, BATCH_SIZE, SEQUENCE_LENGTH, self.random_seed)
        started = time.perf_counter()
        fit(network, sampler, language_modeling, options)
        return time.perf_counter() - started

    def apart(self, begin: Callable[[int], PreTrainedModel], num_steps: int, seed_steps: int = 0) -> Experts:
        """Experts that have all weights of their own."""
        networks = [begin(number) for number in range(len(DOMAINS))]
        seconds = [
            self.train(network, [text], num_steps)
            for network, text in zip(networks, self.text.train.values(), strict=True)
        ]
        return self.summary(self.members(networks), num_steps, seed_steps, seconds, count_trained(networks[0], {}))

    def adapters(self, num_steps: int) -> Experts:
        """Experts that are adapters on one backbone, the seed."""
        backbone, seconds, counts = copy.deepcopy(self.seed), [], (0, 0)
        for name, text in self.text.train.items():
            add_adapter(backbone, name, rank=RANK, seed=self.random_seed)
            counts = counts if any(counts) else count_trained(backbone, adapter_only(name))
            seconds.append(self.train(backbone, [text], num_steps, adapter_only(name)))
        members = adapter_members(CausalLM("seed", backbone, self.text.tokenizer))
        return self.summary(members, num_steps, self.seed_steps, seconds, counts)

    def adapters_and_embeddings(self, num_steps: int) -> Experts:
        """Experts that have adapters and embeddings of their own, and are merged: they share no backbone."""
        merged, seconds, counts = [], [], (0, 0)
        for name, text in self.text.train.items():
            network = copy.deepcopy(self.seed)
            add_adapter(network, name, rank=RANK, seed=self.random_seed)
            scales = adapter_only(name) | embedding_scales(network)
            counts = count_trained(network, scales)
            seconds.append(self.train(network, [text], num_steps, scales))
            merged.append(merge_adapter(network, name))
        return self.summary(self.members(merged), num_steps, self.seed_steps, seconds, counts)

    def members(self, networks: list[PreTrainedModel]) -> list[CausalLM]:
        return [CausalLM(name, network, self.text.tokenizer) for name, network in zip(DOMAINS, networks, strict=True)]

    @staticmethod
    def summary(
        members: list[CausalLM], num_steps: int, seed_steps: int, seconds: list[float], counts: tuple[int, int]
    ) -> Experts:
        tokens = (seed_steps + len(members) * num_steps) * BATCH_SIZE * SEQUENCE_LENGTH
        return Experts(members, tokens, *counts, statistics.mean(seconds))

    def losses(self, network: Any) -> dict[str, float]:
        """Nats per token on every domain."""
        scores = measure(network, self.text.test, batch_size=32, name="model").scores
        return {name: scores[name].value("nats_per_token") for name in DOMAINS}

    def measured(self) -> Iterator[dict[str, Any]]:
        """Every start, and what it began from."""
        for title, network in (("the seed itself", self.seed), ("the checkpoint itself", self.checkpoint)):
            yield {"experts": title, "own": self.losses(network)}
        for title, experts in self.experts():
            mixture = Mixture(experts.members, Posterior()).eval()
            yield {
                "experts": title,
                "own": {member.name: self.losses(member.network)[member.name] for member in experts.members},
                "mixture": self.losses(mixture),
                "tokens": experts.tokens,
                "trained": experts.trained,
                "held to train, bytes": experts.held_bytes,
                "held to answer": total_parameters(mixture),
                "seconds": experts.seconds,
            }


def count_trained(network: PreTrainedModel, scales: Scales) -> tuple[int, int]:
    """Parameters that are trained, and those that are frozen."""
    trained = sum(parameter.numel() for place, parameter in network.named_parameters() if scale_of(place, scales) != 0)
    return trained, total_parameters(network) - trained


def row(title: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One start over the random seeds."""
    own = {name: statistics.mean(entry["own"][name] for entry in entries) for name in DOMAINS}
    means = [statistics.mean(entry["own"].values()) for entry in entries]
    first, has_experts = entries[0], "mixture" in entries[0]
    mixtures = [statistics.mean(entry["mixture"].values()) for entry in entries] if has_experts else []
    return {
        "experts from": title,
        **{name: f"{value:.3f}" for name, value in own.items()},
        "own, mean": with_range(means),
        "mixture": with_range(mixtures) if has_experts else "",
        "million tokens": f"{first['tokens'] / 1e6:.2f}" if has_experts else "",
        "thousand trained each": f"{first['trained'] / 1e3:.0f}" if has_experts else "",
        "MB to train one": f"{first['held to train, bytes'] / 1e6:.2f}" if has_experts else "",
        "thousand held to answer": f"{first['held to answer'] / 1e3:.0f}" if has_experts else "",
        "seconds each": f"{statistics.mean(entry['seconds'] for entry in entries):.1f}" if has_experts else "",
    }


def with_range(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="Folder with multidomain/ and wikitext2/.")
    parser.add_argument("--random-seeds", type=int, default=2, help="Repetitions, each with other weights and batches.")
    parser.add_argument("--seed-steps", type=int, default=240)
    parser.add_argument("--expert-steps", type=int, default=60)
    arguments = parser.parse_args()
    text = read_text(arguments.text)
    measured: list[dict[str, Any]] = []
    for random_seed in range(arguments.random_seeds):
        for entry in Bench(text, random_seed, arguments.seed_steps, arguments.expert_steps).measured():
            measured.append({"random_seed": random_seed} | entry)
            print(random_seed, entry["experts"], f"{statistics.mean(entry['own'].values()):.3f}", flush=True)
        titles = list(dict.fromkeys(entry["experts"] for entry in measured))
        # After each, so that what was measured is not lost where a later one is stopped.
        save(
            "transfer",
            [row(title, [entry for entry in measured if entry["experts"] == title]) for title in titles],
            command="transfer --text ../shared/data/lm",
            shape=SHAPE.model_dump(mode="json", exclude={"training", "checkpoint"}),
            seed_steps=arguments.seed_steps,
            expert_steps=arguments.expert_steps,
            rank=RANK,
            random_seeds=random_seed + 1,
            measured=measured,
        )


if __name__ == "__main__":
    main()
