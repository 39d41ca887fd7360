"""What models that write to a source, and mixtures of them, minimize: how unlikely the target is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from moesaic.combiners import BySource
from moesaic.data import NOT_SCORED, PairBatch
from moesaic.mixture import Mixture
from moesaic.seq2seq_mixture import shift_right
from moesaic.tasks import linear_cross_entropy
from moesaic.training.objectives import PLAIN_HEADS, Losses, has_plain_head

PLAIN_SEQ2SEQ_HEADS = frozenset({"bart", "marian", "mbart"})
"""Architectures of Transformers whose logits are their output layer's product, and ``final_logits_bias``.

A list for the reason that :data:`moesaic.training.objectives.PLAIN_HEADS` is one: T5, for instance, scales its hidden
states first.
"""


@dataclass(frozen=True)
class SequenceToSequence:
    """The cross-entropy of the target's tokens.

    Attributes:
        label_smoothing: Share of every label that is spread evenly over the vocabulary.
        domain_weights: What a token of each domain counts; all the same if not given (:func:`balance_tasks`).

    Reference: Vaswani et al. (2017), section 5.4, https://arxiv.org/abs/1706.03762
    """

    label_smoothing: float = 0.1
    domain_weights: Sequence[float] | None = None

    def __call__(self, network: Any, batch: PairBatch) -> Losses:
        """Compute the loss of an encoder-decoder model or a causal one, or of a mixture of either."""
        loss = target_cross_entropy(network, batch, self.label_smoothing, self.domain_weights)
        return Losses(loss, {"cross_entropy": loss})


@dataclass(frozen=True)
class SourceRouting:
    """How well the router of a mixture tells from the source which domain it comes from; no member runs.

    It learns from labels, and so needs members that stand in the order of the domains.
    """

    def __call__(self, network: Mixture, batch: PairBatch) -> Losses:
        """Compute the cross-entropy between the router's scores and the domains, in nats."""
        loss = _router_domain_loss(network, batch)
        return Losses(loss, {"router_domain": loss})


@dataclass(frozen=True)
class RoutedSequenceToSequence:
    """Joint training where each source has one member: a member learns what its router sends it.

    Attributes:
        label_smoothing: Share of every label that is spread evenly over the vocabulary.
        router_domain_loss_coef: Coefficient of the cross-entropy between the router's scores and the domains.
        domain_weights: What a token of each domain counts; all the same if not given (:func:`balance_tasks`).
    """

    label_smoothing: float = 0.1
    router_domain_loss_coef: float = 0.1
    domain_weights: Sequence[float] | None = None

    def __call__(self, network: Mixture, batch: PairBatch) -> Losses:
        """Compute the losses; each member runs on the pairs whose sources its router gives it."""
        router = _router(network)
        chosen = router.route_source(batch.source_ids, batch.source_mask.bool()).weights.argmax(dim=-1)  # (batch,)
        total = batch.source_ids.new_zeros((), dtype=torch.float32)
        num_scored = (batch.labels != NOT_SCORED).sum()
        for member, is_its in zip(network.members, F.one_hot(chosen, len(network.members)).bool().T, strict=True):
            if is_its.any():
                its = batch.take(is_its.nonzero().squeeze(1))
                share = (its.labels != NOT_SCORED).sum() / num_scored
                total = total + share * target_cross_entropy(member, its, self.label_smoothing, self.domain_weights)
        routing = _router_domain_loss(network, batch)
        parts = {"cross_entropy": total, "router_domain": routing}
        return Losses(total + self.router_domain_loss_coef * routing, parts)


def balance_tasks(num_tokens: Sequence[int], tasks: Sequence[str]) -> tuple[float, ...]:
    """What a token of each domain must count for every task to count the same in the loss.

    A task whose targets are long, or of which there are many, otherwise counts more. The mean weight of a token is 1.

    Args:
        num_tokens: Tokens of the targets that are read of each domain in an epoch.
        tasks: The task of each domain.

    Example:
        >>> balance_tasks([300, 300, 200], ["translate", "translate", "answer"])
        (0.6666666666666666, 0.6666666666666666, 2.0)
    """
    of_task = {task: sum(num for num, its in zip(num_tokens, tasks, strict=True) if its == task) for task in tasks}
    return tuple(sum(num_tokens) / (len(of_task) * of_task[task]) for task in tasks)


def target_cross_entropy(
    network: Any, batch: PairBatch, label_smoothing: float, domain_weights: Sequence[float] | None = None
) -> Float[Tensor, ""]:
    """The mean cross-entropy of a batch's targets, in nats per token.

    A causal model reads the source and then the target, as one text. Where a network's logits are its output layer's
    product, they are not all made at once (:func:`moesaic.tasks.linear_cross_entropy`).

    Args:
        network: An encoder-decoder model, a causal one, or a mixture of either.
        batch: Sources and targets.
        label_smoothing: Share of every label that is spread evenly over the vocabulary.
        domain_weights: What the cross-entropy of a token of each domain is multiplied with; 1 if not given.
    """
    states, cross_entropy = _read_targets(network, batch, label_smoothing)
    is_scored = batch.labels != NOT_SCORED
    labels = batch.labels[is_scored]
    if domain_weights is None:
        return cross_entropy(states, labels)
    domains = batch.domain_index.unsqueeze(1).expand_as(batch.labels)[is_scored]
    weights = torch.tensor(domain_weights, device=domains.device)[domains]  # (token,)
    total = states.new_zeros((), dtype=torch.float32)
    for weight in weights.unique():
        its = weights == weight
        total = total + weight * its.float().mean() * cross_entropy(states[its], labels[its])
    return total


def _read_targets(
    network: Any, batch: PairBatch, label_smoothing: float
) -> tuple[Float[Tensor, "token _"], Callable[[Tensor, Tensor], Tensor]]:
    """What a network makes of the targets' tokens, and the mean cross-entropy of that and their labels."""
    is_seq2seq = network.config.is_encoder_decoder
    inputs = _seq2seq_inputs(batch, network.config) if is_seq2seq else _causal_inputs(batch)
    is_scored = batch.labels != NOT_SCORED
    # A causal model's last token of the source predicts the first of the target, and so on.
    of_target = slice(-batch.labels.shape[1], None)
    if not has_plain_head(network, PLAIN_SEQ2SEQ_HEADS if is_seq2seq else PLAIN_HEADS):
        logits = network(**inputs, use_cache=False).logits[:, of_target][is_scored].float()
        return logits, partial(F.cross_entropy, label_smoothing=label_smoothing)
    hidden_states = network.base_model(**inputs, use_cache=False).last_hidden_state[:, of_target][is_scored]
    head = network.get_output_embeddings()
    bias = network.final_logits_bias[0] if is_seq2seq else head.bias
    return hidden_states, lambda states, labels: linear_cross_entropy(
        states, head.weight, labels, bias=bias, label_smoothing=label_smoothing
    )


def _seq2seq_inputs(batch: PairBatch, config: Any) -> dict[str, Tensor]:
    return {
        "input_ids": batch.source_ids,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": shift_right(batch.labels, config),
    }


def _causal_inputs(batch: PairBatch) -> dict[str, Tensor]:
    """Source and target in one row, with the source's padding before it, as when the model writes."""
    # Padding is False, and sorts before what is a token; equal ones keep their order.
    places = batch.source_mask.argsort(dim=1, stable=True)
    target = batch.labels[:, :-1]  # nothing follows the last token
    is_token = target != NOT_SCORED
    mask = torch.cat([batch.source_mask.gather(1, places), is_token.long()], dim=1)
    return {
        "input_ids": torch.cat([batch.source_ids.gather(1, places), target.where(is_token, 0)], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp_min(0),
    }


def _router(network: Mixture) -> BySource:
    if not isinstance(network.combiner, BySource):
        raise ValueError(
            f"The mixture's combiner is {network.combiner.word!r}, which has no router that reads the source. Use "
            "'by_source'."
        )
    return network.combiner


def _router_domain_loss(network: Mixture, batch: PairBatch) -> Float[Tensor, ""]:
    scores = _router(network).score(batch.source_ids, batch.source_mask.bool())
    return F.cross_entropy(scores.float(), batch.domain_index)
