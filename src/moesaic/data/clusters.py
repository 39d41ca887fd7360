"""Domains that nobody named: documents that use the same words, in clusters of the same size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, eye_array, kron

from moesaic.data.domains import Domain
from moesaic.errors import DataError

Documents = Sequence[ArrayLike]
"""The token ids of each document."""


@dataclass(frozen=True)
class Clusters:
    """Centers among documents, in a space where documents that use the same words are near each other.

    A document's place is the sum of what its tokens add to it (term frequency, inverse document frequency, and a
    singular value decomposition of their product: latent semantic analysis), scaled to length 1. So the place of a
    prefix is known at every token.

    Attributes:
        token_places: What each occurrence of a token adds, ``(vocab, feature)``.
        centers: One a cluster, ``(cluster, feature)``.

    Reference: Gururangan et al. (2023), section 2, https://arxiv.org/abs/2303.14177
    """

    token_places: Float[NDArray[np.float32], "vocab feature"]
    centers: Float[NDArray[np.float32], "cluster feature"]

    def distances(self, documents: Documents) -> Float[NDArray[np.float32], "document cluster"]:
        """Squared distance of every document to every center, from 0 to 4."""
        return _distances(_places(_count(documents, len(self.token_places)), self.token_places), self.centers)

    def typical_tokens(self, cluster: int, num_tokens: int = 8) -> list[int]:
        """The tokens that draw a text the most to a cluster, less to the others."""
        others = np.delete(self.centers, cluster, axis=0).mean(axis=0) if len(self.centers) > 1 else 0
        return (-self.token_places @ (self.centers[cluster] - others)).argsort()[:num_tokens].tolist()

    def nearest(self, documents: Documents) -> Int[NDArray[np.int64], " document"]:
        """The cluster of each document."""
        return self.distances(documents).argmin(axis=1)


def center_groups(groups: Sequence[Documents], *, vocab_size: int, num_features: int = 100, seed: int = 0) -> Clusters:
    """One center for each group of documents that is given: domains that have names.

    Args:
        groups: The documents of each domain.
        vocab_size: Number of different tokens.
        num_features: Features of the space.
        seed: Makes the decomposition's random start.

    Raises:
        DataError: If a group has no document.

    Example:
        >>> clusters = center_groups([[[0, 1, 0], [0, 1, 1]], [[2, 3, 3], [3, 2, 2]]], vocab_size=4, num_features=2)
        >>> clusters.nearest([[1, 1, 1], [2, 3]]).tolist()
        [0, 1]
    """
    for number, group in enumerate(groups):
        if not len(group):
            raise DataError(f"Group {number} has no document, so it has no center. Leave it out, or add text.")
    documents = [document for group in groups for document in group]
    counts = _count(documents, vocab_size)
    token_places = _place_tokens(counts, num_features, seed)
    places = _places(counts, token_places)
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return Clusters(token_places, _centers(places, labels, len(groups)))


def find_clusters(
    documents: Documents,
    num_clusters: int,
    *,
    vocab_size: int,
    num_features: int = 100,
    num_rounds: int = 20,
    max_documents: int = 4000,
    seed: int = 0,
) -> Clusters:
    """Find domains among documents: balanced k-means, in which no cluster may have more than its share of documents.

    Begins with the centers of plain k-means, then, by turns, gives documents to centers so that the sum of distances is
    least among all ways that are balanced (a transport problem, solved to its optimum), and moves the centers. Balance
    keeps a large cluster from taking most of the text, which would make one expert of it.

    Args:
        documents: The token ids of each document.
        num_clusters: Number of clusters.
        vocab_size: Number of different tokens.
        num_features: Features of the space.
        num_rounds: Rounds at most; they end when no document changes its cluster.
        max_documents: Documents that are looked at for the centers, a random sample if there are more.
        seed: Makes the sample and every random start.

    Raises:
        DataError: If there are fewer documents than clusters.

    Example:
        >>> documents = [[0, 1, 0], [2, 3, 3], [1, 0, 1], [2, 2, 3]]
        >>> clusters = find_clusters(documents, 2, vocab_size=4, num_features=2)
        >>> labels = clusters.nearest(documents)
        >>> bool(labels[0] == labels[2] != labels[1] == labels[3])
        True

    Reference: Gururangan et al. (2023), section 2.1, https://arxiv.org/abs/2303.14177
    """
    if not 1 <= num_clusters <= len(documents):
        raise DataError(
            f"num_clusters must be from 1 to the number of documents ({len(documents)}), got {num_clusters}."
        )
    counts = _count(documents, vocab_size)
    token_places = _place_tokens(counts, num_features, seed)
    places = _places(counts, token_places)
    if len(places) > max_documents:
        places = places[np.random.default_rng(seed).choice(len(places), max_documents, replace=False)]
    from sklearn.cluster import KMeans  # a second to import, which those who have named domains save

    centers = KMeans(num_clusters, n_init=4, random_state=seed).fit(places).cluster_centers_.astype(np.float32)
    labels = np.full(len(places), -1)
    for _ in range(num_rounds):
        dealt = assign_balanced(_distances(places, centers))
        if (dealt == labels).all():
            break
        labels, centers = dealt, _centers(places, dealt, num_clusters)
    return Clusters(token_places, centers)


def regroup(
    domains: Sequence[Domain], clusters: Clusters, encode: Callable[[Sequence[str]], Documents]
) -> list[Domain]:
    """Deal the documents of all domains to clusters; each stays in its split.

    Args:
        domains: The domains.
        clusters: What was found among their training documents.
        encode: From texts to the token ids of each.

    Returns:
        One domain a cluster: ``cluster-1`` and so on.
    """
    dealt: dict[str, list[list[str]]] = {}
    for split in ("train", "validation", "test"):
        texts = [text for domain in domains for text in getattr(domain, split)]
        dealt[split] = [[] for _ in clusters.centers]
        for text, cluster in zip(texts, clusters.nearest(encode(texts)) if texts else (), strict=True):
            dealt[split][cluster].append(text)
    return [
        Domain(f"cluster-{number}", *map(tuple, parts))
        for number, parts in enumerate(zip(*dealt.values(), strict=True), 1)
    ]


def assign_balanced(costs: Float[NDArray[np.float32], "row cluster"]) -> Int[NDArray[np.int64], " row"]:
    """Give every row to a cluster, at most its share of rows to each, at the least total cost.

    Args:
        costs: Cost of each row in each cluster.

    Example:
        >>> assign_balanced(np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 9.0], [0.5, 9.5]], dtype=np.float32)).tolist()
        [1, 1, 0, 0]
    """
    from scipy.optimize import linprog

    num_rows, num_clusters = costs.shape
    solved = linprog(
        costs.ravel(),
        A_eq=kron(eye_array(num_rows), np.ones((1, num_clusters)), format="csr"),
        b_eq=np.ones(num_rows),
        A_ub=kron(np.ones((1, num_rows)), eye_array(num_clusters), format="csr"),
        b_ub=np.full(num_clusters, math.ceil(num_rows / num_clusters)),
        method="highs",
    )
    # Its corners are whole: each row is in one cluster (Birkhoff).
    return solved.x.reshape(num_rows, num_clusters).argmax(axis=1)


def _count(documents: Documents, vocab_size: int) -> csr_array:
    """How often each document has each token, ``(document, vocab)``."""
    tokens = [np.asarray(document, dtype=np.int64) for document in documents]
    starts = np.concatenate([[0], np.cumsum([len(document) for document in tokens])])
    ids = np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int64)
    counts = csr_array((np.ones(len(ids), np.float32), ids, starts), shape=(len(tokens), vocab_size))
    counts.sum_duplicates()
    return counts


def _place_tokens(counts: csr_array, num_features: int, seed: int) -> Float[NDArray[np.float32], "vocab feature"]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    weigh = TfidfTransformer().fit(counts)
    num_features = min(num_features, min(counts.shape) - 1) or 1
    decomposition = TruncatedSVD(num_features, random_state=seed).fit(weigh.transform(counts))
    return (weigh.idf_[:, None] * decomposition.components_.T).astype(np.float32)


def _places(counts: csr_array, token_places: NDArray[np.float32]) -> Float[NDArray[np.float32], "document feature"]:
    sums = counts @ token_places
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def _centers(
    places: Float[NDArray[np.float32], "document feature"],
    labels: Int[NDArray[np.int64], " document"],
    num_clusters: int,
) -> Float[NDArray[np.float32], "cluster feature"]:
    """The mean place of each cluster's documents."""
    return np.stack([places[labels == number].mean(axis=0) for number in range(num_clusters)])


def _distances(
    places: Float[NDArray[np.float32], "document feature"], centers: Float[NDArray[np.float32], "cluster feature"]
) -> Float[NDArray[np.float32], "document cluster"]:
    return ((places[:, None] - centers[None]) ** 2).sum(axis=2)
