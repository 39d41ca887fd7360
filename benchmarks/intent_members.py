"""The members that :mod:`benchmarks.intents` combines; their settings were chosen on CLINC150's validation split."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, normalize
from sklearn.svm import LinearSVC

from benchmarks.intent_data import Intents
from moesaic.data import Examples
from moesaic.members import CooccurrenceVectors, TextClassifier, make_text_classifier
from moesaic.members.text_encoding import split_words
from moesaic.training import (
    AdversarialClassification,
    Classification,
    EstimatorLearner,
    Learner,
    NetworkLearner,
    TrainingOptions,
)

BATCH_SIZE = 128
LABEL_SMOOTHING = 0.1
MEAN_VECTOR_LENGTH = 0.5
"""Where each kind of n-gram has a length of 1."""


def word_pairs(text: str) -> list[str]:
    """Every pair of words of a text, in any order, each known by its first four characters."""
    prefixes = sorted({word[:4] for word in re.findall(r"\w+", text.lower())})
    return prefixes + [f"{first}+{second}" for first, second in combinations(prefixes, 2)]


def mean_vector(vectors: CooccurrenceVectors) -> Pipeline:
    """The mean of a text's word vectors, each weighted by how rare its word is."""
    rarity = TfidfVectorizer(vocabulary=vectors.words, tokenizer=split_words, token_pattern=None, norm=None)
    table = vectors.vectors.numpy()
    return make_pipeline(rarity, FunctionTransformer(lambda weights: MEAN_VECTOR_LENGTH * normalize(weights @ table)))


def estimator(seed: int, *, kind: str, pairs: bool, vectors: CooccurrenceVectors | None = None) -> Pipeline:
    """A linear classifier of TF-IDF features, and of the mean word vector where vectors are given."""
    kinds: list[Any] = [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"),
        TfidfVectorizer(ngram_range=(2, 4 if pairs else 5), analyzer="char_wb", sublinear_tf=True),
    ]
    if pairs:
        kinds.append(TfidfVectorizer(analyzer=word_pairs, sublinear_tf=True))
    if vectors is not None:
        kinds.append(mean_vector(vectors))
    # A loose tolerance: the last digits of the loss take most of the time and change no answer.
    head = LinearSVC(random_state=seed) if kind == "svm" else LogisticRegression(C=100, tol=2e-4)
    return make_pipeline(make_union(*kinds), head)


def network(examples: Examples, seed: int, *, architecture: str, num_classes: int, **arguments: Any) -> TextClassifier:
    """An untrained network that knows the words of the examples."""
    return make_text_classifier(architecture, examples.inputs, num_classes=num_classes, seed=seed, **arguments)


def estimator_learner(num_classes: int, **arguments: Any) -> Learner:
    return EstimatorLearner(partial(estimator, **arguments), num_classes)


def network_learner(
    num_classes: int,
    *,
    architecture: str,
    num_epochs: float,
    learning_rate: float,
    num_rows: int = 15_000,
    weight_decay: float = 0.01,
    adversarial_norm: float | None = None,
    **arguments: Any,
) -> NetworkLearner:
    options = TrainingOptions(
        num_steps=round(num_epochs * num_rows / BATCH_SIZE),
        batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
        num_warmup_steps=60,
        final_learning_rate=0.02,
        weight_decay=weight_decay,
        checkpoint_every=0,
    )
    make = partial(network, architecture=architecture, num_classes=num_classes, **arguments)
    objective = Classification(LABEL_SMOOTHING)
    if adversarial_norm is None:
        return NetworkLearner(make, options, objective)
    return NetworkLearner(make, options, AdversarialClassification(objective, adversarial_norm))


NGRAM_LINEAR: Mapping[str, Any] = {
    "architecture": "ngram_linear",
    "learning_rate": 3e-3,
    "weight_decay": 0.0,
    "width": 128,
    "ngram_dropout": 0.3,
    "dropout": 0.1,
}
"""The cheap member: what is bagged and boosted."""

TRANSFORMER: Mapping[str, Any] = {"num_epochs": 14, "learning_rate": 2e-3, "width": 96, "embedding_dropout": 0.1}

SVM_WITH_PAIRS: Mapping[str, Any] = {"kind": "svm", "pairs": True}

WORD_AVERAGE: Mapping[str, Any] = {
    "architecture": "word_average",
    "num_epochs": 15,
    "learning_rate": 3e-3,
    "width": 192,
    "hidden_size": 384,
}

CONVOLUTIONAL: Mapping[str, Any] = {
    "architecture": "convolutional",
    "num_epochs": 15,
    "learning_rate": 3e-3,
    "num_channels": 256,
    "adversarial_norm": 5.0,
    "word_dropout": 0.15,
    "embedding_dropout": 0.3,
}

RECURRENT: Mapping[str, Any] = {
    "architecture": "recurrent",
    "num_epochs": 15,
    "learning_rate": 3e-3,
    "word_dropout": 0.05,
    "embedding_dropout": 0.1,
}

LEARNERS: Mapping[str, Callable[[int], Learner]] = {
    "TF-IDF, linear SVM": partial(estimator_learner, kind="svm", pairs=False),
    "TF-IDF with word pairs, linear SVM": partial(estimator_learner, **SVM_WITH_PAIRS),
    "TF-IDF with word pairs, logistic regression": partial(estimator_learner, kind="logistic", pairs=True),
    "hashed n-grams, linear": partial(network_learner, num_epochs=12, **NGRAM_LINEAR),
    "hashed n-grams, perceptron": partial(
        network_learner,
        architecture="ngram_perceptron",
        num_epochs=12,
        learning_rate=3e-3,
        width=128,
        ngram_dropout=0.3,
        dropout=0.4,
    ),
    "averaged word vectors": partial(network_learner, **WORD_AVERAGE),
    "convolutional": partial(network_learner, **CONVOLUTIONAL),
    "recurrent": partial(network_learner, **RECURRENT),
    "bidirectional transformer": partial(
        network_learner, architecture="bidirectional_transformer", num_epochs=14, learning_rate=1e-3
    ),
    "causal transformer": partial(
        network_learner, architecture="causal_transformer", num_epochs=14, learning_rate=1e-3
    ),
}
"""From a word to what makes the learner for a number of classes; these members read the training split alone."""

VECTOR_LEARNERS: Mapping[str, Callable[..., Learner]] = {
    "TF-IDF and vectors, linear SVM": partial(estimator_learner, **SVM_WITH_PAIRS),
    "averaged word vectors, some given": partial(network_learner, **WORD_AVERAGE),
    "convolutional with vectors": partial(network_learner, **CONVOLUTIONAL),
    "recurrent with vectors": partial(network_learner, adversarial_norm=5.0, **RECURRENT),
}
"""The same for members that are given word vectors, as ``vectors``, which other texts helped to learn."""


def make_learner(name: str, intents: Intents, num_classes: int) -> Learner:
    if name in VECTOR_LEARNERS:
        return VECTOR_LEARNERS[name](num_classes, vectors=intents.vectors)
    return LEARNERS[name](num_classes)


MEMBERS = [*LEARNERS, *VECTOR_LEARNERS]

NETWORKS = [name for name in MEMBERS if not name.startswith("TF-IDF")]
"""The members that a seed changes; the others are fitted once."""
