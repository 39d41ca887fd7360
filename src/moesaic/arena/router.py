"""A router as a classifier of domains: does it send a text of a domain to that domain's expert?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from torch import Tensor

from moesaic.arena.bootstrap import Bootstrap, Interval
from moesaic.arena.classification import ClassificationScores, score_classifier
from moesaic.arena.grid import Grid, GridColumn, GridSection
from moesaic.arena.scores import METRICS, Metric
from moesaic.data import NOT_SCORED, EvaluationBlocks
from moesaic.mixture import Mixture
from moesaic.moe import expert_names, is_sparse, read_routing

_METRICS: tuple[Metric, ...] = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
_ALL = "all"


@dataclass(frozen=True)
class RouterScores:
    """Which expert each document was sent to, and which it belonged to.

    Attributes:
        experts: The experts; those of a domain have its name.
        scores: The choices as a classifier's answers, whose classes are the experts.
        bootstrap: How intervals are found, over documents.
    """

    experts: tuple[str, ...]
    scores: ClassificationScores
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that the documents were of, in the order of the experts."""
        return tuple(self.experts[label] for label in np.unique(self.scores.labels))

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Number of documents of each domain that were sent to each expert, ``(domain, expert)``."""
        counts = np.zeros((len(self.experts), len(self.experts)), dtype=np.int64)
        np.add.at(counts, (self.scores.labels, self.scores.predictions), 1)
        return counts[np.unique(self.scores.labels)]

    def interval(self, metric: Metric) -> Interval:
        """Accuracy, ``macro_precision``, ``macro_recall`` or ``macro_f1``; the macro figures count domains alike.

        Raises:
            ValueError: If the metric is not one of a classifier's answers.
        """
        return self.bootstrap.interval({_ALL: self.scores}, metric, [_ALL])

    def summary(self) -> str:
        """The figures in a sentence."""
        figures = ", ".join(f"{METRICS[metric].heading} {self.interval(metric)}" for metric in _METRICS)
        return f"The router as a classifier of {len(self.scores)} documents: {figures}."

    def grid(self) -> Grid:
        """The confusion matrix: a row a domain, a column an expert."""
        columns = [
            GridColumn(name, tuple(map(str, counts)))
            for name, counts in zip(self.experts, self.confusion.T.tolist(), strict=True)
        ]
        kinds = ("",) * len(self.domains)
        title = "Documents of each domain, by the expert that weighs most"
        return Grid(self.domains, kinds, (GridSection(title, tuple(columns)),), heading="domain")

    def to_rich(self, *, width: int = 80) -> RenderableType:
        """Figures and matrix for a terminal of so many columns."""
        return Group(self.grid().to_rich(width), self.summary())

    def to_markdown(self) -> str:
        """Figures and matrix for a page."""
        return f"{self.grid().to_markdown()}\n{self.summary()}\n"

    def __str__(self) -> str:
        return self.to_markdown()


def score_router(
    weights: Float[Tensor, "document expert"],
    domains: Sequence[str],
    experts: Sequence[str],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> RouterScores:
    """Compare the expert that weighs most in each document with the one that has the name of the document's domain.

    Args:
        weights: Weight of every expert in each document: of :func:`route_documents`, or ``mixture.route(x).weights`` of
            a :class:`moesaic.RoutedMixture`, whose rows are sentences or examples.
        domains: The domain of each document.
        experts: The experts' names, in the order of the weights. There may be some that have no domain.
        num_resamples: Bootstrap resamples behind each confidence interval.
        seed: Makes the resamples.

    Raises:
        ValueError: If a domain has no expert of its name, or the numbers of weights and names differ.

    Example:
        >>> weights = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
        >>> scores = score_router(weights, ["news", "law", "law", "law"], ["news", "law"])
        >>> scores.confusion.tolist()
        [[1, 0], [1, 2]]
        >>> round(scores.scores.accuracy, 3), round(scores.scores.macro_precision, 3)  # 3/4; mean of 1/2 and 2/2
        (0.75, 0.75)
    """
    if weights.shape != (len(domains), len(experts)):
        raise ValueError(
            f"weights must be of {len(domains)} documents and {len(experts)} experts, as many as there are domains and "
            f"names, got {weights.shape[0]} and {weights.shape[1]}."
        )
    for domain in domains:
        if domain not in experts:
            raise ValueError(
                f"Domain {domain!r} has no expert of its name; there are {', '.join(experts)}. Give every domain the "
                "name of the expert that should answer it."
            )
    labels = torch.tensor([list(experts).index(domain) for domain in domains])
    # What is softmaxed again are log-probabilities, so the weights come out as they went in.
    scores = score_classifier(weights.double().log().cpu(), labels)
    return RouterScores(tuple(experts), scores, Bootstrap(num_resamples, seed))


def score_document_router(
    network: Any,
    blocks: Mapping[str, EvaluationBlocks],
    *,
    batch_size: int = 16,
    num_resamples: int = 1000,
    seed: int = 0,
) -> RouterScores:
    """Have a mixture read documents of each domain, and see whose expert weighs most.

    Args:
        network: A sparse model, whose layers count alike, or a mixture that meets at logits.
        blocks: Documents of every domain, by the name of its expert.
        batch_size: Windows read at once.
        num_resamples: Bootstrap resamples behind each confidence interval.
        seed: Makes the resamples.

    Raises:
        ValueError: If the model has no experts, or a domain has none of its name.
    """
    weights = [route_documents(network, documents, batch_size=batch_size) for documents in blocks.values()]
    domains = [name for name, of_domain in zip(blocks, weights, strict=True) for _ in range(len(of_domain))]
    names = network.member_names if isinstance(network, Mixture) else expert_names(network.config)
    return score_router(torch.cat(weights), domains, names, num_resamples=num_resamples, seed=seed)


@torch.no_grad()
def route_documents(
    network: Any, documents: EvaluationBlocks, *, batch_size: int = 16
) -> Float[Tensor, "document expert"]:
    """Mean weight of every expert over a document's tokens, and over the layers of a sparse model.

    Args:
        network: A sparse model, or a mixture that meets at logits.
        documents: What it reads.
        batch_size: Windows read at once.

    Raises:
        ValueError: If the model has no experts.
    """
    sums: list[Tensor] = []
    scored = documents.labels != NOT_SCORED
    for start in range(0, len(documents.input_ids), batch_size):
        rows = slice(start, start + batch_size)
        weights = _token_weights(network, documents.input_ids[rows].to(network.device)).double().cpu()
        part = weights.new_zeros(len(documents.document_bytes), weights.shape[-1])
        sums.append(part.index_add_(0, documents.document_index[rows][scored[rows]], weights[scored[rows]]))
    num_tokens = documents.document_index[scored].bincount(minlength=len(documents.document_bytes))
    return torch.stack(sums).sum(0) / num_tokens.unsqueeze(1)


def _token_weights(network: Any, input_ids: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position expert"]:
    if isinstance(network, Mixture):
        return network(input_ids, use_cache=False).routing.weights
    if not is_sparse(network.config):
        raise ValueError(
            f"{type(network).__name__} has no experts, so it routes nothing. Give a sparse model or a mixture."
        )
    output = network(input_ids=input_ids, use_cache=False, output_router_logits=True)
    weights = read_routing(output.router_logits, network.config).weights  # (layer, token, expert)
    return weights.mean(0).unflatten(0, tuple(input_ids.shape))
