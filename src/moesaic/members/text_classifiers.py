"""Classifiers of raw text, trained from scratch: an encoder and a small network under one word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moesaic.members.text_encoding import NgramEncoder, TextEncoder, WordEncoder
from moesaic.members.text_networks import Attentive, Convolutional, NgramSum, Recurrent, WordAverage
from moesaic.members.word_vectors import CooccurrenceVectors


@dataclass(frozen=True)
class _Architecture:
    encoder: type[NgramEncoder] | type[WordEncoder]
    network: Any


ARCHITECTURES: Mapping[str, _Architecture] = {
    "ngram_linear": _Architecture(NgramEncoder, NgramSum),
    "ngram_perceptron": _Architecture(NgramEncoder, partial(NgramSum, hidden_size=256)),
    "word_average": _Architecture(WordEncoder, WordAverage),
    "convolutional": _Architecture(WordEncoder, Convolutional),
    "recurrent": _Architecture(WordEncoder, Recurrent),
    "bidirectional_transformer": _Architecture(WordEncoder, Attentive),
    "causal_transformer": _Architecture(WordEncoder, partial(Attentive, causal=True)),
}
"""Registered word of every architecture."""


class TextClassifier(nn.Module):
    """A text classifier that reads raw texts; made by :func:`make_text_classifier`.

    Args:
        architecture: Its registered word.
        encoder: What turns texts into numbers.
        num_classes: Number of classes.
        **arguments: Of the network.
    """

    def __init__(self, architecture: str, encoder: TextEncoder, num_classes: int, **arguments: Any) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = encoder
        self.num_classes = num_classes
        self.arguments = arguments
        self.network: nn.Module = ARCHITECTURES[architecture].network(encoder.num_embeddings, num_classes, **arguments)

    def prepare(self, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Encode texts ahead, so that an epoch of training does not do it again; ``forward`` takes the result too."""
        return self.encoder(texts)

    def lengths(self, *prepared: Tensor) -> Int[Tensor, " row"]:
        """Number of words or n-grams of each text."""
        numbers = prepared[0]
        return (numbers.flatten(2)[:, :, 0] if numbers.dim() > 2 else numbers).ne(0).sum(dim=1)

    def forward(self, *inputs: Any) -> Float[Tensor, "batch class"]:
        """Score the classes of texts, raw (one sequence of strings) or prepared (several tensors)."""
        is_raw = not isinstance(inputs[0], Tensor)
        device = next(self.network.parameters()).device
        prepared = [tensor.to(device) for tensor in self.prepare(inputs[0])] if is_raw else inputs
        return self.network(*prepared)

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary and arguments as JSON, the weights as safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "network": self.arguments,
            "encoder": self.encoder.arguments(),
        }
        (folder / "classifier.json").write_text(json.dumps(described) + "\n", encoding="utf-8")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> TextClassifier:
        """Read what :meth:`save` wrote; in evaluation mode."""
        described = json.loads((Path(folder) / "classifier.json").read_text(encoding="utf-8"))
        encoder = ARCHITECTURES[described["architecture"]].encoder(**described["encoder"])
        classifier = cls(described["architecture"], encoder, described["num_classes"], **described["network"])
        classifier.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return classifier.eval()


def make_text_classifier(
    architecture: str,
    texts: Sequence[str],
    *,
    num_classes: int,
    seed: int,
    encoder: Mapping[str, Any] | None = None,
    vectors: CooccurrenceVectors | None = None,
    **arguments: Any,
) -> TextClassifier:
    """Make an untrained classifier that knows the words of some texts.

    Args:
        architecture: One of ``ngram_linear``, ``ngram_perceptron``, ``word_average``, ``convolutional``, ``recurrent``,
            ``bidirectional_transformer`` and ``causal_transformer``.
        texts: What the vocabulary is made from: the training texts.
        num_classes: Number of classes.
        seed: Makes the initial weights.
        encoder: Arguments of the encoder, such as ``num_buckets``.
        vectors: Vectors of words that stay as they are, beside those that are learned: for architectures of words.
        **arguments: Arguments of the network, such as ``width`` and ``dropout``; see :mod:`.text_networks`.

    Raises:
        ValueError: If there is no such architecture, or vectors are given to one that reads hashed n-grams.

    Example:
        >>> classifier = make_text_classifier("convolutional", ["pay the bill", "play a song"], num_classes=2, seed=0)
        >>> classifier(["pay the rent", "play"]).shape
        torch.Size([2, 2])
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}.")
    encoder_type = ARCHITECTURES[architecture].encoder
    if vectors is not None:
        if encoder_type is not WordEncoder:
            of_words = ", ".join(word for word, kind in ARCHITECTURES.items() if kind.encoder is WordEncoder)
            raise ValueError(
                f"vectors are of words, and {architecture} reads hashed n-grams. Leave them out, or use one of "
                f"{of_words}."
            )
        texts = [*texts, *vectors.words]
        arguments["given_width"] = vectors.vectors.shape[1]
    made = encoder_type.from_texts(texts, **(encoder or {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = TextClassifier(architecture, made, num_classes, **arguments)
    if vectors is not None:
        numbers = made(vectors.words)[0][:, 0, 0]  # of each word its own, before those of its n-grams
        network: Any = classifier.network
        network.words.give(numbers, vectors.vectors)
    return classifier
