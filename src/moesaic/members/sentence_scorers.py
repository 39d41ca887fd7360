"""Members that summarize by choosing: each scores the sentences of a document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from moesaic.members.text_classifiers import TextClassifier
from moesaic.tasks import Document, centrality, similarity_to, words_of

NUM_CUES = 13
"""Number of cheap features of a sentence; see :func:`sentence_cues`."""

Pooling = Literal["first", "mean"]


@lru_cache(maxsize=2**15)  # a document is read again in every epoch
def sentence_cues(document: Document) -> Float[Tensor, "sentence cue"]:
    """What tells a summary's sentences without reading them, each about as large as 1.

    Place: from the beginning, from the end, as a share of the document, and whether it is the first or the last.
    Length: of the sentence, against the document's mean, and of the document. Content: similarity to the document, its
    query, its title; whether it asks; whether it has digits.
    """
    sentences = document.sentences
    num_sentences = len(sentences)
    place = np.arange(num_sentences)
    lengths = np.array([len(words_of(sentence)) for sentence in sentences], dtype=float)
    columns = [
        1 / (1 + place),
        1 / (num_sentences - place),
        place / max(num_sentences - 1, 1),
        place == 0,
        place == num_sentences - 1,
        np.log1p(lengths) / 4,
        lengths / max(lengths.mean(), 1.0) / 2 if num_sentences else lengths,
        np.full(num_sentences, np.log1p(num_sentences) / 4),
        centrality(sentences),
        similarity_to(document.query, sentences),
        similarity_to(document.title, sentences),
        np.array([sentence.rstrip().endswith("?") for sentence in sentences]),
        np.array([any(character.isdigit() for character in sentence) for sentence in sentences]),
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def sentence_mask(documents: Sequence[Document]) -> Bool[Tensor, "document sentence"]:
    """True where a document has a sentence; as wide as the longest one. What members score has this shape.

    Raises:
        ValueError: If a document has no sentence.

    Example:
        >>> sentence_mask([Document("One. Two."), Document("One.")]).tolist()
        [[True, True], [True, False]]
    """
    counts = [len(document.sentences) for document in documents]
    if 0 in counts:
        raise ValueError(f"Document {counts.index(0)} of {len(counts)} has no sentence. Leave empty documents out.")
    return torch.arange(max(counts, default=0)) < torch.tensor(counts).unsqueeze(1)


class PooledEncoder(nn.Module):
    """Any encoder of Transformers (``AutoModel``) as a map from sentences to vectors.

    Args:
        model: Returns ``last_hidden_state``.
        tokenizer: The model's.
        pooling: ``first`` takes the first token's state, the ``[CLS]`` of BERT; ``mean`` that of all tokens.
        max_tokens: Tokens of a sentence that are read; of longer ones the beginning.
        batch_size: Sentences read at once; sentences of about the same length go together.

    Raises:
        ValueError: If there is no such pooling.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: Pooling = "mean",
        max_tokens: int = 64,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}.")
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.batch_size = batch_size

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "sentence hidden"]:
        """Read sentences, each by itself."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        chunks = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        vectors = torch.cat([self._read([texts[index] for index in chunk]) for chunk in chunks])
        return vectors[torch.tensor(order, device=vectors.device).argsort()]

    def _read(self, texts: list[str]) -> Float[Tensor, "sentence hidden"]:
        encoded = self.tokenizer(
            texts, max_length=self.max_tokens, truncation=True, padding=True, return_tensors="pt", verbose=False
        ).to(next(self.model.parameters()).device)
        mask = encoded["attention_mask"]
        states = self.model(input_ids=encoded["input_ids"], attention_mask=mask).last_hidden_state
        if self.pooling == "first":
            return states[:, 0]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer as Transformers does, and how sentences become vectors as JSON."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        arguments = {"pooling": self.pooling, "max_tokens": self.max_tokens, "batch_size": self.batch_size}
        (Path(folder) / "pooling.json").write_text(json.dumps(arguments) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> PooledEncoder:
        """Read what :meth:`save` wrote; in evaluation mode."""
        arguments = json.loads((Path(folder) / "pooling.json").read_text(encoding="utf-8"))
        model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        return cls(model, AutoTokenizer.from_pretrained(folder), **arguments).eval()


_ENCODERS: dict[str, type[PooledEncoder] | type[TextClassifier]] = {
    "pooled": PooledEncoder,
    "text_classifier": TextClassifier,
}
"""Word of every kind of encoder that can be saved."""


class SentenceScorer(nn.Module):
    """Scores each sentence of a document: how much a summary should have it.

    To a combiner a document is an example whose classes are its sentences. The softmax of the scores is the
    distribution over sentences that a summary is taken from, so scorers of any kind combine like classifiers, and
    :class:`moesaic.RoutedMixture` chooses an expert a document.

    Args:
        encoder: Maps sentences, a list of texts, to vectors: a :class:`PooledEncoder`, or a text classifier
            (:func:`moesaic.members.make_text_classifier`) whose classes are the vector's numbers. Without it the scorer
            reads cheap features alone (:func:`sentence_cues`).
        encoder_size: Size of the encoder's vectors.
        hidden_size: Width of what follows.
        num_context_layers: Transformer layers in which sentences see each other; 0 for none.
        num_heads: Attention heads in these.
        dropout: Share of the hidden units left out in training.
        seed: Makes the initial weights of all but the encoder.

    Example:
        >>> documents = [Document("It rained. Nobody minded. So what?"), Document("It rained.")]
        >>> SentenceScorer()(documents, sentence_mask(documents)).isfinite().tolist()
        [[True, True, True], [True, False, False]]

    Reference: Liu and Lapata (2019), section 3, https://arxiv.org/abs/1908.08345; sentences are encoded one by one
    here, not all at once, so that a document may be of any length.
    """

    def __init__(
        self,
        encoder: nn.Module | None = None,
        *,
        encoder_size: int = 0,
        hidden_size: int = 64,
        num_context_layers: int = 0,
        num_heads: int = 4,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.arguments = {
            "encoder_size": encoder_size,
            "hidden_size": hidden_size,
            "num_context_layers": num_context_layers,
            "num_heads": num_heads,
            "dropout": dropout,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project = nn.Sequential(
                nn.Linear(NUM_CUES + encoder_size, hidden_size), nn.GELU(), nn.Dropout(dropout)
            )
            self.context = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    hidden_size, num_heads, 4 * hidden_size, dropout, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(num_context_layers)
            )
            self.score = nn.Linear(hidden_size, 1)

    def forward(
        self, documents: Sequence[Document], mask: Bool[Tensor, "document sentence"]
    ) -> Float[Tensor, "document sentence"]:
        """Score sentences.

        Args:
            documents: What is to be summarized.
            mask: Where the documents have sentences (:func:`sentence_mask`); wider, if others are longer.

        Returns:
            Scores; minus infinity where there is no sentence.
        """
        device = self.score.weight.device
        mask = mask.to(device)
        read = torch.cat([sentence_cues(document) for document in documents]).to(device)
        if self.encoder is not None:
            vectors = self.encoder([sentence for document in documents for sentence in document.sentences])
            read = torch.cat([read, vectors.float()], dim=-1)
        hidden = self.project(read)
        states = hidden.new_zeros((*mask.shape, hidden.shape[-1]))
        states[mask] = hidden
        for layer in self.context:
            states = layer(states, src_key_padding_mask=~mask)
        return self.score(states).squeeze(-1).masked_fill(~mask, -torch.inf)

    def save(self, folder: str | Path) -> None:
        """Write the arguments as JSON, the weights as safetensors, the encoder in a folder of its own.

        Raises:
            ValueError: If the encoder is of a kind that cannot be made again.
        """
        words = [word for word, kind in _ENCODERS.items() if isinstance(self.encoder, kind)]
        if self.encoder is not None and not words:
            raise ValueError(
                f"A scorer with a {type(self.encoder).__name__} cannot be saved, since nothing says how to make it "
                f"again. Use one of {', '.join(kind.__name__ for kind in _ENCODERS.values())}."
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = {"encoder": words[0] if words else None, **self.arguments}
        (folder / "scorer.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("encoder.")}
        save_file(own, folder / "scorer.safetensors")
        if isinstance(self.encoder, PooledEncoder | TextClassifier):
            self.encoder.save(folder / "encoder")

    @classmethod
    def load(cls, folder: str | Path) -> SentenceScorer:
        """Read what :meth:`save` wrote; in evaluation mode."""
        folder = Path(folder)
        described = json.loads((folder / "scorer.json").read_text(encoding="utf-8"))
        word = described.pop("encoder")
        encoder = None if word is None else _ENCODERS[word].load(folder / "encoder")
        scorer = cls(encoder, **described)
        read = {} if encoder is None else {f"encoder.{name}": part for name, part in encoder.state_dict().items()}
        scorer.load_state_dict(load_file(folder / "scorer.safetensors") | read)
        return scorer.eval()


class DocumentRouter(nn.Module):
    """Scores the members that could summarize a document, by reading all of it.

    Args:
        classifier: Maps texts to one score a member: a text classifier
            (:func:`moesaic.members.make_text_classifier`), or a fitted one (:class:`moesaic.members.EstimatorModule`).
            It reads the query before the document.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(
        self, documents: Sequence[Document], mask: Bool[Tensor, "document sentence"]
    ) -> Float[Tensor, "document member"]:
        """Score every member for every document."""
        scores: Any = self.classifier([document.source for document in documents])
        return scores
