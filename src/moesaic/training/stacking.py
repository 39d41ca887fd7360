"""Fit combiners on what the members say of rows that none of them was trained on: stacking."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moesaic.combiners import Combined, Combiner
from moesaic.data import NOT_SCORED, EvaluationBlocks
from moesaic.tasks import next_token_nats
from moesaic.training.memory import keep_memory_warm

MAX_VALUES = 2**28
"""Scores that are held in memory at most: a gigabyte."""


@dataclass(frozen=True)
class HeldOut:
    """What the members say of rows that none of them was trained on.

    A classifier is a language model of one position: use :meth:`of_examples`.

    Attributes:
        member_logits: Scores of every member, ``(member, row, position, vocab)``.
        input_ids: What the members read, ``(row, position)``.
        labels: The right answers, ``NOT_SCORED`` where there is none, ``(row, position)``.
        row_weights: How much each answer of a row counts; all the same if not given.
        observed: What a combiner observed of the scores, ``(row, position, ...)``; see :meth:`Combiner.observe`.
    """

    member_logits: Float[Tensor, "member row position vocab"]
    input_ids: Int[Tensor, "row position"]
    labels: Int[Tensor, "row position"]
    row_weights: Float[Tensor, " row"] | None = None
    observed: Float[Tensor, "row position ..."] | None = None

    @classmethod
    def of_examples(cls, member_logits: Float[Tensor, "member row vocab"], labels: Int[Tensor, " row"]) -> HeldOut:
        """Held-out examples of a classification task."""
        return cls(member_logits.unsqueeze(2), torch.zeros_like(labels).unsqueeze(1), labels.unsqueeze(1))

    @property
    def target_log_probabilities(self) -> Float[Tensor, "scored member"]:
        """Log-probability that each member gives to each right answer, in nats."""
        scored = self.labels != NOT_SCORED
        columns = []
        for logits in self.member_logits:  # one after the other, so that only one is normalized at a time
            log_probabilities = logits[scored].float().log_softmax(dim=-1)
            columns.append(log_probabilities.gather(-1, self.labels[scored].unsqueeze(-1)).squeeze(-1))
        return torch.stack(columns, dim=-1)

    @property
    def target_weights(self) -> Float[Tensor, " scored"]:
        """How much each right answer counts."""
        weights = torch.ones(len(self)) if self.row_weights is None else self.row_weights
        return weights.unsqueeze(1).expand_as(self.labels)[self.labels != NOT_SCORED]

    def take(self, rows: slice | Tensor) -> HeldOut:
        """Some of the rows."""
        weights = None if self.row_weights is None else self.row_weights[rows]
        observed = None if self.observed is None else self.observed[rows]
        return HeldOut(self.member_logits[:, rows], self.input_ids[rows], self.labels[rows], weights, observed)

    @torch.no_grad()
    def reduced(self, combiner: Combiner, batch_size: int = 32) -> HeldOut:
        """The same rows as a combiner in probability space needs them: the right answer, or any other.

        A probability mean of the members gives the right answer the mean of what they give it, so two outcomes stand
        for the whole vocabulary, and fitting takes a fraction of the time.
        """
        targets, observed = [], []
        for start in range(0, len(self), batch_size):
            part = self.take(slice(start, start + batch_size))
            labels = part.labels.clamp_min(0)[None, ..., None].expand(len(part.member_logits), -1, -1, -1)
            log_probabilities = part.member_logits.float().log_softmax(dim=-1)
            targets.append(log_probabilities.gather(-1, labels))  # (member, row, position, 1)
            mask = torch.ones_like(part.input_ids, dtype=torch.bool)
            observed.append(combiner.observe(part.member_logits, part.input_ids, mask))
        right = torch.cat(targets, dim=1).clamp_max(-1e-7)
        labels = self.labels.where(self.labels == NOT_SCORED, 0)
        seen = [part for part in observed if part is not None]
        return HeldOut(
            torch.cat([right, torch.log1p(-right.exp())], dim=-1),
            self.input_ids,
            labels,
            self.row_weights,
            torch.cat(seen) if seen else None,
        )

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def collect_held_out(
    members: Sequence[nn.Module],
    blocks: Mapping[str, EvaluationBlocks],
    *,
    batch_size: int = 16,
    max_values: int = MAX_VALUES,
) -> dict[str, HeldOut]:
    """Let language models read held-out text and keep their scores.

    Args:
        members: The networks, called like Transformers causal language models.
        blocks: The text of every domain.
        batch_size: Windows read at once.
        max_values: Scores kept in memory over all domains; later windows are left out.

    Raises:
        ValueError: If a domain has no text.
    """
    first: Any = members[0]
    held_out = {}
    for domain, documents in blocks.items():
        if not documents.num_tokens:
            raise ValueError(
                f"Domain {domain!r} has no text on which a stacker could be fitted. Raise data.validation_fraction."
            )
        window = documents.input_ids.shape[1] * first.config.vocab_size * len(members)
        num_rows = min(len(documents.input_ids), max(1, max_values // len(blocks) // window))
        inputs, labels = documents.input_ids[:num_rows], documents.labels[:num_rows]
        scores = torch.stack(
            [
                torch.cat([member(input_ids=part, use_cache=False).logits.float() for part in inputs.split(batch_size)])
                for member in members
            ]
        )
        held_out[domain] = HeldOut(scores, inputs, labels)
    return held_out


def join_held_out(parts: Sequence[HeldOut]) -> HeldOut:
    """The rows of several domains, one after the other; each domain counts the same, however many answers it has."""
    counts = [int((part.labels != NOT_SCORED).sum()) for part in parts]
    mean = sum(counts) / len(counts)
    return HeldOut(
        torch.cat([part.member_logits for part in parts], dim=1),
        torch.cat([part.input_ids for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([torch.full((len(part),), mean / count) for part, count in zip(parts, counts, strict=True)]),
    )


def fit_weights(
    target_log_probabilities: Float[Tensor, "row member"],
    row_weights: Float[Tensor, " row"] | None = None,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 20_000,
) -> Float[Tensor, " member"]:
    """The constant weights under which the held-out answers are likeliest, ``max_w Σ_r log Σ_m w_m p_m(r)``.

    Expectation-maximization: a member's next weight is its mean responsibility for the answers. The problem is convex,
    and the largest mean of ``p_m / Σ w p`` bounds how far the likelihood is from its optimum; the steps end when that
    bound is below the tolerance. A member alone is a corner of the simplex, so on these rows the result is never worse
    than the best member.

    Args:
        target_log_probabilities: Log-probability that each member gives to the right answer of each row.
        row_weights: How much each row counts; all the same if not given.
        tolerance: Nats per row that may be missing from the optimum.
        max_steps: Steps at most.

    Returns:
        The weights; they are non-negative and sum to 1.

    Raises:
        ValueError: If there is no row.

    Example:
        >>> fit_weights(torch.tensor([[0.9, 0.5], [0.9, 0.5], [0.1, 0.5]]).log())
        tensor([0.4167, 0.5833])

    Reference: Jelinek and Mercer (1980), Interpolated estimation of Markov source parameters; Cover (1984), An
    algorithm for maximizing expected log investment return, theorem 3 (the bound).
    """
    num_rows, num_members = target_log_probabilities.shape
    if not num_rows:
        raise ValueError("Weights are fitted on held-out rows, and there are none. Set some aside.")
    log_probabilities = target_log_probabilities.double()
    # Rows are scaled by their largest probability, which changes no weight and keeps small ones from vanishing.
    probabilities = (log_probabilities - log_probabilities.amax(dim=1, keepdim=True)).exp()
    shares = _shares(row_weights, num_rows)
    weights = torch.full((num_members,), 1 / num_members, dtype=torch.float64)
    for _ in range(max_steps):
        gain = shares @ (probabilities / (probabilities @ weights).unsqueeze(1))
        if gain.max().log() < tolerance:
            break
        weights = weights * gain
    return (weights / weights.sum()).float()


def _shares(row_weights: Tensor | None, num_rows: int) -> Tensor:
    """The rows' weights, scaled to sum to 1."""
    weights = torch.ones(num_rows, dtype=torch.float64) if row_weights is None else row_weights.double()
    return weights / weights.sum()


def select_greedily(
    target_log_probabilities: Float[Tensor, "row member"],
    row_weights: Float[Tensor, " row"] | None = None,
    *,
    num_rounds: int = 50,
) -> Float[Tensor, " member"]:
    """Weights from greedy ensemble selection: add, again and again, the member that helps most.

    Members are chosen with replacement for a probability average, starting from none; a member's weight is its share of
    the rounds. The best prefix of the rounds is kept.

    Args:
        target_log_probabilities: Log-probability that each member gives to the right answer of each row.
        row_weights: How much each row counts; all the same if not given.
        num_rounds: Members added at most.

    Raises:
        ValueError: If there is no row, or no round.

    Example:
        >>> select_greedily(torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.1, 0.5, 0.1]]).log(), num_rounds=8)
        tensor([0.4286, 0.5714, 0.0000])

    Reference: Caruana et al. (2004), Ensemble selection from libraries of models, section 2.
    """
    if not len(target_log_probabilities) or num_rounds < 1:
        raise ValueError(
            f"Greedy selection needs held-out rows and num_rounds of 1 or more, got "
            f"{len(target_log_probabilities)} rows and num_rounds={num_rounds}."
        )
    probabilities = target_log_probabilities.double().exp()
    shares = _shares(row_weights, len(probabilities))
    total = torch.zeros(len(probabilities), dtype=torch.float64)
    counts = torch.zeros(probabilities.shape[1], dtype=torch.float64)
    best_loss, best_counts = float("inf"), counts
    for number in range(1, num_rounds + 1):
        losses = -(shares @ ((total.unsqueeze(1) + probabilities) / number).clamp_min(1e-300).log())
        chosen = int(losses.argmin())
        total += probabilities[:, chosen]
        counts[chosen] += 1
        if losses[chosen] < best_loss - 1e-12:
            best_loss, best_counts = float(losses[chosen]), counts.clone()
    return (best_counts / best_counts.sum()).float()


def combined_nats(combiner: Combiner, held_out: HeldOut) -> Tensor:
    """Mean negative log-likelihood of the right answers under a combiner, in nats; gradients reach its parameters."""
    return _nats(_combine(combiner, held_out), held_out)


def _combine(combiner: Combiner, held_out: HeldOut) -> Combined:
    mask = torch.ones_like(held_out.input_ids, dtype=torch.bool)
    arguments = {} if held_out.observed is None else {"observed": held_out.observed}
    return combiner(held_out.member_logits, held_out.input_ids, mask, **arguments)


def _nats(combined: Combined, held_out: HeldOut) -> Tensor:
    weights = held_out.target_weights
    nats = next_token_nats(combined.logits, held_out.labels)[held_out.labels != NOT_SCORED]
    return (weights * nats).sum() / weights.sum()


def fit_combiner(
    combiner: Combiner,
    held_out: HeldOut,
    *,
    num_steps: int = 200,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> float:
    """Train a combiner's parameters on what the members said of held-out rows, the members left as they are.

    A share of the rows is set aside; the parameters that do best there are kept, those before any step included. So a
    combiner that begins as the best constant weights ends as nothing worse, beyond noise.

    Args:
        combiner: Trained in place.
        held_out: Rows that no member was trained on.
        num_steps: Optimizer steps.
        batch_size: Rows in a step.
        learning_rate: Adam's learning rate; it falls linearly to zero.
        validation_fraction: Share of the rows that is set aside.
        seed: Makes the order of the rows.

    Returns:
        The loss on the rows set aside, in nats per answer.

    Raises:
        ValueError: If there are fewer than two rows, or the combiner has nothing to learn.
    """
    if len(held_out) < 2:
        raise ValueError(
            f"A stacker is fitted on held-out rows, and there are {len(held_out)}; it needs 2 or more. Set more aside."
        )
    if combiner.num_members is None:
        combiner.attach(len(held_out.member_logits), held_out.member_logits.shape[-1])
    parameters = list(combiner.parameters())
    if not parameters:
        raise ValueError(f"{type(combiner).__name__} has no parameters to fit; use it as it is.")
    if getattr(combiner, "space", None) == "probability":
        held_out = held_out.reduced(combiner, batch_size)
    keep_memory_warm()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(held_out), generator=generator)
    num_kept = min(len(held_out) - 1, max(1, round(len(held_out) * validation_fraction)))
    kept, rows = held_out.take(order[:num_kept]), order[num_kept:]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    best_nats, best = _kept_nats(combiner, kept, batch_size), copy.deepcopy(combiner.state_dict())
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
        drawn = rows[torch.randint(len(rows), (min(batch_size, len(rows)),), generator=generator)]
        optimizer.zero_grad(set_to_none=True)
        part = held_out.take(drawn)
        combiner.train()
        combined = _combine(combiner, part)
        penalty = combiner.penalty(combined.routing)
        loss = _nats(combined, part)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        combiner.adapt(combined.routing)
        if (step + 1) % max(1, num_steps // 10) == 0:
            nats = _kept_nats(combiner, kept, batch_size)
            if nats < best_nats:
                best_nats, best = nats, copy.deepcopy(combiner.state_dict())
    combiner.load_state_dict(best)
    return best_nats


@torch.no_grad()
def _kept_nats(combiner: Combiner, kept: HeldOut, batch_size: int) -> float:
    combiner.eval()  # a router's noise is for training
    total, count = 0.0, 0.0
    for start in range(0, len(kept), batch_size):
        part = kept.take(slice(start, start + batch_size))
        weight = float(part.target_weights.sum())
        if weight:
            total += float(combined_nats(combiner, part)) * weight
            count += weight
    return total / count if count else float("inf")
