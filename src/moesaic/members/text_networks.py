"""Small networks from words or n-grams to class scores; each is trained from scratch in a minute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, BertConfig, GPT2Config

_MASKED = -1e4
"""Below every activation, and a number in bfloat16 too: what padding counts in a maximum."""

_GIVEN_SCALE = 0.3
"""Root mean square of given word vectors; with a third of it averages of words lose 0.01 nats more on CLINC150."""


class NgramSum(nn.Module):
    """Hashed n-grams and a head: the sum of one vector an n-gram, mapped to the classes.

    Linear in the n-grams, and of reduced rank, unless it is given a hidden layer.

    Args:
        num_embeddings: Number of n-gram buckets.
        num_classes: Number of classes.
        width: Width of the vectors.
        hidden_size: Width of a hidden layer before the head; 0 for none.
        dropout: Share of what the head sees that is left out in training.
        ngram_dropout: Share of the n-grams that is left out in training.

    Reference: Joulin et al. (2017), section 2, https://arxiv.org/abs/1607.01759
    """

    def __init__(
        self,
        num_embeddings: int,
        num_classes: int,
        width: int = 96,
        hidden_size: int = 0,
        dropout: float = 0.2,
        ngram_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(num_embeddings, width, mode="sum", padding_idx=0)
        # Small, because most n-grams are seen too rarely to unlearn what they begin with: with PyTorch's deviation of 1
        # that noise costs three points of accuracy on CLINC150 (94.1 against 90.4 on its validation split).
        nn.init.normal_(self.embedding.weight, std=0.02)
        hidden = [nn.Linear(width, hidden_size), nn.GELU()] if hidden_size else []
        self.head = nn.Sequential(*hidden, nn.Dropout(dropout), nn.Linear(hidden_size or width, num_classes))
        self.ngram_dropout = ngram_dropout

    def forward(
        self, buckets: Int[Tensor, "batch ngram"], weights: Float[Tensor, "batch ngram"]
    ) -> Float[Tensor, "batch class"]:
        """Score the classes."""
        kept = buckets != 0
        if self.training:
            kept = kept & (torch.rand(buckets.shape, device=buckets.device) >= self.ngram_dropout)
            weights = weights / (1 - self.ngram_dropout)
        lengths = kept.sum(dim=1)
        vectors = self.embedding(buckets[kept], lengths.cumsum(0) - lengths, per_sample_weights=weights[kept])
        return self.head(vectors)


class WordVectors(nn.Module):
    """A vector a word: the mean of its own and those of its character n-grams, and beside it one that stays as given.

    What is given, such as :class:`.CooccurrenceVectors`, tells what a word means that the training texts lack.

    Args:
        num_embeddings: Number of words and n-gram buckets.
        width: Width of the vectors that are learned.
        word_dropout: Share of the words that is left out in training.
        dropout: Share of the channels that is left out in training, the same ones at every word of a text.
        given_width: Width of the vectors that are given; 0 for none.

    Attributes:
        width: Width of a word's vectors together.

    Reference: Kim (2014), section 2.1, whose second channel stays as given too, https://arxiv.org/abs/1408.5882
    """

    def __init__(
        self, num_embeddings: int, width: int, word_dropout: float, dropout: float, given_width: int = 0
    ) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(num_embeddings, width, mode="mean", padding_idx=0)
        # Small for the reason that NgramSum has: words and n-grams are rare. The convolutional network gains a point.
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.given: Tensor | None
        self.register_buffer("given", torch.zeros(num_embeddings, given_width) if given_width else None)
        self.width = width + given_width
        self.word_dropout = word_dropout
        self.dropout = dropout

    @torch.no_grad()
    def give(self, words: Int[Tensor, " word"], vectors: Float[Tensor, "word width"]) -> None:
        """Set the vectors that stay as they are, of the words with these numbers."""
        assert self.given is not None
        self.given[words] = _GIVEN_SCALE * vectors

    def forward(
        self, pieces: Int[Tensor, "batch word piece"]
    ) -> tuple[Float[Tensor, "batch position width"], Bool[Tensor, "batch position"]]:
        """The vectors, as many as the longest text has words, and which of them are words rather than padding."""
        longest = int((pieces[:, :, 0] != 0).sum(dim=1).max())
        pieces = pieces[:, :longest]
        mask = pieces[:, :, 0] != 0
        real = pieces[mask]  # (word, piece), so that padding costs nothing
        lengths = (real != 0).sum(dim=1)
        vectors = self.embedding(real[real != 0], lengths.cumsum(0) - lengths)
        if self.given is not None:
            vectors = torch.cat([vectors, F.embedding(real[:, 0], self.given)], dim=1)
        if self.training:
            vectors = vectors * (torch.rand(len(vectors), 1, device=vectors.device) >= self.word_dropout)
        padded = vectors.new_zeros(*mask.shape, vectors.shape[-1])
        padded[mask] = vectors
        return drop_channels(padded, self.dropout, self.training), mask


def drop_channels(
    states: Float[Tensor, "batch position width"], share: float, training: bool
) -> Float[Tensor, "batch position width"]:
    """Dropout with one draw a text and channel rather than one a position: as strong, and far fewer random numbers.

    Reference: Gal and Ghahramani (2016), section 4, https://arxiv.org/abs/1512.05287
    """
    if not training or not share:
        return states
    return states * F.dropout(states.new_ones(states.shape[0], 1, states.shape[2]), share)


def max_over_words(
    states: Float[Tensor, "batch position width"], mask: Bool[Tensor, "batch position"]
) -> Float[Tensor, "batch width"]:
    """The largest value of each channel over the words of a text."""
    return states.masked_fill(~mask.unsqueeze(-1), _MASKED).amax(dim=1)


class WordAverage(nn.Module):
    """The mean of the word vectors, and a hidden layer.

    Args:
        num_embeddings: Number of words and n-gram buckets.
        num_classes: Number of classes.
        width: Width of the word vectors.
        hidden_size: Width of the hidden layer.
        word_dropout: Share of the words that is left out in training.
        dropout: Share of the hidden layer that is left out in training.
        given_width: Width of word vectors that are given and not learned; 0 for none.

    References: Joulin et al. (2017), section 2, https://arxiv.org/abs/1607.01759; Iyyer et al. (2015), section 3
    """

    def __init__(
        self,
        num_embeddings: int,
        num_classes: int,
        width: int = 128,
        hidden_size: int = 256,
        word_dropout: float = 0.1,
        dropout: float = 0.3,
        given_width: int = 0,
    ) -> None:
        super().__init__()
        self.words = WordVectors(num_embeddings, width, word_dropout, 0.0, given_width)
        self.head = nn.Sequential(
            nn.Linear(self.words.width, hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, pieces: Int[Tensor, "batch word piece"]) -> Float[Tensor, "batch class"]:
        """Score the classes."""
        vectors, mask = self.words(pieces)
        # Divided by the square root of the length: between a sum, which grows with it, and a mean, which fades.
        return self.head(vectors.sum(dim=1) / mask.sum(dim=1, keepdim=True).sqrt())


class Convolutional(nn.Module):
    """Filters over neighbouring words, each kept where it fits best.

    Args:
        num_embeddings: Number of words and n-gram buckets.
        num_classes: Number of classes.
        width: Width of the word vectors.
        num_channels: Number of filters of each size.
        kernel_sizes: Words that a filter sees.
        word_dropout: Share of the words that is left out in training.
        embedding_dropout: Share of the word vectors' channels that is left out in training.
        dropout: Share of the filters that is left out in training.
        given_width: Width of word vectors that are given and not learned; 0 for none.

    Reference: Kim (2014), section 2, https://arxiv.org/abs/1408.5882
    """

    def __init__(
        self,
        num_embeddings: int,
        num_classes: int,
        width: int = 128,
        num_channels: int = 128,
        kernel_sizes: Sequence[int] = (1, 2, 3),
        word_dropout: float = 0.1,
        embedding_dropout: float = 0.2,
        dropout: float = 0.4,
        given_width: int = 0,
    ) -> None:
        super().__init__()
        self.words = WordVectors(num_embeddings, width, word_dropout, embedding_dropout, given_width)
        self.convolutions: Any = nn.ModuleList(
            nn.Conv1d(self.words.width, num_channels, size, padding=size - 1) for size in kernel_sizes
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_channels * len(kernel_sizes), num_classes)

    def forward(self, pieces: Int[Tensor, "batch word piece"]) -> Float[Tensor, "batch class"]:
        """Score the classes."""
        vectors, mask = self.words(pieces)
        channels, lengths = vectors.transpose(1, 2), mask.sum(dim=1)
        found = []
        for convolution in self.convolutions:
            responses = convolution(channels).relu()  # (batch, channel, place)
            places = torch.arange(responses.shape[2], device=responses.device)
            # A filter that sees padding alone would still answer with its bias.
            sees_words = places < (lengths + convolution.kernel_size[0] - 1).unsqueeze(1)
            found.append((responses * sees_words.unsqueeze(1)).amax(dim=2))
        return self.head(self.dropout(torch.cat(found, dim=1)))


class Recurrent(nn.Module):
    """Gated recurrent units read the words forwards and backwards.

    Args:
        num_embeddings: Number of words and n-gram buckets.
        num_classes: Number of classes.
        width: Width of the word vectors.
        hidden_size: Width of the state in each direction.
        word_dropout: Share of the words that is left out in training.
        embedding_dropout: Share of the word vectors' channels that is left out in training.
        dropout: Share of the pooled states that is left out in training.
        given_width: Width of word vectors that are given and not learned; 0 for none.

    Reference: Cho et al. (2014), section 2.3, https://arxiv.org/abs/1406.1078
    """

    def __init__(
        self,
        num_embeddings: int,
        num_classes: int,
        width: int = 128,
        hidden_size: int = 128,
        word_dropout: float = 0.1,
        embedding_dropout: float = 0.2,
        dropout: float = 0.4,
        given_width: int = 0,
    ) -> None:
        super().__init__()
        self.words = WordVectors(num_embeddings, width, word_dropout, embedding_dropout, given_width)
        self.recurrence = nn.GRU(self.words.width, hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden_size, num_classes)

    def forward(self, pieces: Int[Tensor, "batch word piece"]) -> Float[Tensor, "batch class"]:
        """Score the classes."""
        vectors, mask = self.words(pieces)
        lengths = mask.sum(dim=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.recurrence(packed)[0], batch_first=True)
        return self.head(self.dropout(max_over_words(states, mask)))


class Attentive(nn.Module):
    """A small transformer, one of Transformers' own: BERT where words see both sides, GPT-2 where they look back.

    Args:
        num_embeddings: Number of words and n-gram buckets.
        num_classes: Number of classes.
        causal: Whether a word sees only those before it; the last word's state is then the text's. Else it is the
            maximum over all words.
        width: Width of the word vectors that are learned; the states are as wide as these and the given ones.
        num_layers: Number of layers.
        num_heads: Number of attention heads.
        word_dropout: Share of the words that is left out in training.
        embedding_dropout: Share of the word vectors' channels that is left out in training.
        dropout: Share of the text's state that is left out in training.
        given_width: Width of word vectors that are given and not learned; 0 for none.

    References: Devlin et al. (2019), https://arxiv.org/abs/1810.04805; Radford et al. (2018), section 3
    """

    def __init__(
        self,
        num_embeddings: int,
        num_classes: int,
        causal: bool = False,
        width: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        word_dropout: float = 0.1,
        embedding_dropout: float = 0.2,
        dropout: float = 0.3,
        given_width: int = 0,
    ) -> None:
        super().__init__()
        self.words = WordVectors(num_embeddings, width, word_dropout, embedding_dropout, given_width)
        self.transformer = AutoModel.from_config(_config(causal, self.words.width, num_layers, num_heads))
        self.causal = causal
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.words.width, num_classes)

    def forward(self, pieces: Int[Tensor, "batch word piece"]) -> Float[Tensor, "batch class"]:
        """Score the classes."""
        vectors, mask = self.words(pieces)
        states = self.transformer(inputs_embeds=vectors, attention_mask=mask.long()).last_hidden_state
        if self.causal:
            text = states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
        else:
            text = max_over_words(states, mask)
        return self.head(self.dropout(text))


def _config(causal: bool, width: int, num_layers: int, num_heads: int) -> Any:
    # Dropout is ours, on channels: inside the layers it would take a third of the training time.
    if causal:
        return GPT2Config(
            vocab_size=1, n_positions=64, n_embd=width, n_layer=num_layers, n_head=num_heads, n_inner=2 * width,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    return BertConfig(
        vocab_size=1, max_position_embeddings=64, hidden_size=width, num_hidden_layers=num_layers,
        num_attention_heads=num_heads, intermediate_size=2 * width, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, pad_token_id=0,
    )  # fmt: skip
