"""CLINC150 as :mod:`benchmarks.intents` reads it, and what a classifier says of it."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moesaic.data import Examples, check_unseen
from moesaic.members import CooccurrenceVectors, EstimatorModule
from moesaic.training import predict_logits

OUT_OF_SCOPE = 150
VECTOR_WIDTH = 96


@dataclass(frozen=True)
class Intents:
    """The splits; out-of-scope queries have the label 150.

    Attributes:
        domain_of: The domain of each of the 150 intents.
        vectors: Vectors of words, learned without labels from the training split and from other English texts.
    """

    train: Examples
    validation: Examples
    test: Examples
    oos_train: Examples
    oos_validation: Examples
    oos_test: Examples
    domain_of: Tensor
    vectors: CooccurrenceVectors

    @property
    def splits(self) -> dict[str, Examples]:
        """What is predicted."""
        return {name: getattr(self, name) for name in ("validation", "test", "oos_validation", "oos_test")}


def read_rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_intents(folder: Path) -> Intents:
    """Read the splits, and leave out of the validation split what stands in the training split too."""
    if not folder.is_dir():
        raise SystemExit(f"There is no {folder}. Give the folder of CLINC150 with --data.")

    domains = {row["label"]: row["domain"] for row in read_rows(folder / "train.jsonl.gz")}
    classes = {label: index for index, label in enumerate(sorted(domains))}
    names = sorted(set(domains.values()))
    domain_of = torch.tensor([names.index(domains[label]) for label in classes])

    def examples(name: str) -> Examples:
        read = read_rows(folder / f"{name}.jsonl.gz")
        labels = [classes.get(row.get("label", ""), OUT_OF_SCOPE) for row in read]
        return Examples([row["text"] for row in read], torch.tensor(labels))

    train, validation = examples("train"), examples("validation")
    seen = set(train.inputs)
    validation = validation.take(np.array([row for row, text in enumerate(validation.inputs) if text not in seen]))
    check_unseen({"every member": train.fingerprints()}, validation.fingerprints())
    others = {name: examples(name) for name in ("test", "oos_train", "oos_validation", "oos_test")}
    vectors = learn_vectors([*train.inputs, *others["oos_train"].inputs], folder.resolve().parents[1])
    return Intents(train, validation, **others, domain_of=domain_of, vectors=vectors)


def learn_vectors(training_texts: Sequence[str], data: Path) -> CooccurrenceVectors:
    """Vectors of the words of the training texts and of the training split of ``lm/multidomain``."""
    others = [row["text"] for row in read_rows(data / "lm/multidomain/train.jsonl.gz")]
    return CooccurrenceVectors.from_texts([*training_texts, *others], width=VECTOR_WIDTH)


Logits = dict[str, Tensor]
"""What a classifier says of each split."""


@dataclass(frozen=True)
class Answers:
    """What a classifier, a member or a combination, says, and what it cost.

    Attributes:
        logits: Scores of each split.
        num_parameters: Parameters that answer, on average over the queries.
        seconds: Processor seconds of training and answering, its members' included; every job has one thread.
    """

    logits: Logits
    num_parameters: float
    seconds: float

    def save(self, path: Path) -> None:
        """Write the answers to a file, whole or not at all."""
        partial = path.with_suffix(".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(self.logits, partial, {"cost": json.dumps([self.num_parameters, self.seconds])})
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Read what :meth:`save` wrote."""
        with safe_open(path, "pt") as file:
            cost = json.loads(file.metadata()["cost"])
        return cls(load_file(path), *cost)


def predict(network: nn.Module, intents: Intents) -> Logits:
    return {name: predict_logits(network, examples.inputs) for name, examples in intents.splits.items()}


def count_parameters(network: nn.Module) -> int:
    """Parameters of a network, the coefficients of estimators in it and the word vectors given to it included."""
    estimators: list[Any] = [module.estimator for module in network.modules() if isinstance(module, EstimatorModule)]
    weights = sum(parameter.numel() for parameter in network.parameters())
    weights += sum(given.numel() for given in network.buffers() if given.is_floating_point())
    return weights + sum(estimator[-1].coef_.size for estimator in estimators)


def answers(network: nn.Module, intents: Intents, started: float) -> Answers:
    return Answers(predict(network, intents), count_parameters(network), time.process_time() - started)
