"""Measure one model on test documents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.arena.calibration import RowScores, expected_calibration_error, score_rows
from moesaic.arena.cost import active_parameters, total_parameters
from moesaic.arena.diversity import Diversity, MemberAnswers, PairCounts
from moesaic.arena.memory import peak_bytes
from moesaic.arena.rows import Kind, Row
from moesaic.arena.scores import DocumentScores
from moesaic.data import NOT_SCORED, EvaluationBlocks
from moesaic.errors import TrainingError
from moesaic.mixture import Mixture
from moesaic.tasks import fit_temperature

CALIBRATION_LOGITS = 2**24
"""Logits that a temperature is fitted on, at most: 64 MB in float32, and thousands of tokens for one number."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model.

    Attributes:
        scores: Its scores on every domain.
        tokens_per_second: Tokens that it read in a second while it was scored.
        temperature: What its logits are divided by for the calibrated loss; ``None`` if there was no text to fit it on.
        diversity: How differently its members answer; ``None`` if it is no mixture of several models.
        peak_bytes: Bytes of its weights and of what reading one batch took at most.
    """

    scores: dict[str, DocumentScores]
    tokens_per_second: float
    temperature: float | None
    diversity: Diversity | None
    peak_bytes: int

    def row(self, network: nn.Module, *, name: str, kind: Kind, **costs: Any) -> Row:
        """The line of the table.

        Args:
            network: What was measured.
            name: What the table calls it.
            kind: An expert alone, a reference, an ensemble of whole models, or a sparse mixture.
            costs: Other attributes of the row, such as ``training_tokens``.
        """
        return Row(
            name=name,
            kind=kind,
            scores=self.scores,
            total_parameters=total_parameters(network),
            active_parameters=active_parameters(network),
            tokens_per_second=self.tokens_per_second,
            temperature=self.temperature,
            diversity=self.diversity,
            peak_bytes=self.peak_bytes,
            **({"training_tokens": None} | costs),
        )


@torch.no_grad()
def measure(
    network: Any,
    blocks: Mapping[str, EvaluationBlocks],
    *,
    batch_size: int,
    name: str,
    calibration: Mapping[str, EvaluationBlocks] | None = None,
) -> Measurement:
    """Score every test token once.

    Args:
        network: A Transformers causal language model, or a mixture.
        blocks: The test documents of every domain.
        batch_size: Windows read at once.
        name: What errors call the model.
        calibration: Other documents of every domain, such as validation text, on which a temperature is fitted; part
            of them is read. Without them there is no calibrated loss.

    Raises:
        TrainingError: If the model does not give a number for some document.
    """
    network.eval()
    temperature = None if calibration is None else _fit_temperature(network, calibration, batch_size, name)
    first = next(iter(blocks.values())).input_ids[:batch_size]
    memory = peak_bytes(network, lambda: _read(network, first))
    mixture = network if isinstance(network, Mixture) and len(network.members) > 1 else None
    pairs = None if mixture is None else PairCounts(len(mixture.members))
    seconds, num_tokens, scores = 0.0, 0, {}
    for domain, documents in blocks.items():
        tally = _Tally(documents)
        for batch in _batches(len(documents.input_ids), batch_size):
            with MemberAnswers(mixture) as answers:
                started = time.perf_counter()
                logits = _read(network, documents.input_ids[batch])
                seconds += time.perf_counter() - started
            num_tokens += documents.labels[batch].numel()
            scored = documents.labels[batch] != NOT_SCORED
            labels = documents.labels[batch][scored].to(logits.device)
            rows = score_rows(_only(logits, scored), labels, temperature or 1.0)
            tally.add(rows, labels, documents.document_index[batch][scored])
            if pairs is not None:
                pairs.add(answers.predictions[:, scored], labels)
        scores[domain] = tally.scores(is_calibrated=temperature is not None, where=domain, name=name)
    speed = num_tokens / seconds
    return Measurement(scores, speed, temperature, None if pairs is None else pairs.diversity(), memory)


def _read(network: Any, input_ids: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
    return network(input_ids=input_ids.to(network.device), use_cache=False).logits


def _batches(num_windows: int, batch_size: int) -> Iterator[slice]:
    return (slice(start, start + batch_size) for start in range(0, num_windows, batch_size))


def _only(
    logits: Float[Tensor, "batch position vocab"], scored: Bool[Tensor, "batch position"]
) -> Float[Tensor, "token vocab"]:
    """The scores at the positions that count; without a copy where all do."""
    return logits.flatten(0, 1) if scored.all() else logits[scored.to(logits.device)]


class _Tally:
    """Sums over the tokens of each document of a domain."""

    def __init__(self, documents: EvaluationBlocks) -> None:
        self._bytes = documents.document_bytes
        # nats, calibrated nats, Brier scores, correct answers and their number: (figure, document)
        self._sums = torch.zeros(5, len(documents.document_bytes), dtype=torch.float64)
        self._confidences: list[Tensor] = []
        self._correct: list[Tensor] = []

    def add(self, rows: RowScores, labels: Int[Tensor, " token"], index: Int[Tensor, " token"]) -> None:
        """Add the scores of some tokens to the documents that ``index`` names."""
        correct = rows.predictions == labels
        figures = (rows.nats, rows.calibrated_nats, rows.brier, correct, torch.ones_like(rows.nats))
        for sums, figure in zip(self._sums, figures, strict=True):
            sums.index_add_(0, index, figure.double().cpu())
        self._confidences.append(rows.confidences.cpu())
        self._correct.append(correct.cpu())

    def scores(self, *, is_calibrated: bool, where: str, name: str) -> DocumentScores:
        """The scores of the domain.

        Raises:
            TrainingError: If some document has none.
        """
        nats, calibrated, brier, correct, tokens = self._sums.numpy()
        is_bad = ~np.isfinite(nats)
        if is_bad.any():
            raise TrainingError(
                f"{name} gives no number for {is_bad.sum()} of {len(nats)} test documents of {where}; its weights or "
                "one of its members' are damaged or not a number."
            )
        return DocumentScores(
            nats=nats,
            tokens=tokens.astype(np.int64),
            bytes=self._bytes.numpy().astype(np.int64),
            calibrated_nats=calibrated if is_calibrated else None,
            brier_sums=brier,
            correct=correct.astype(np.int64),
            expected_calibration_error=expected_calibration_error(
                torch.cat(self._confidences).numpy(), torch.cat(self._correct).numpy()
            ),
        )


def _fit_temperature(network: Any, calibration: Mapping[str, EvaluationBlocks], batch_size: int, name: str) -> float:
    """The temperature that suits windows from all over the documents, as many of each domain."""
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    for documents in calibration.values():
        size = documents.input_ids.shape[1] * network.config.vocab_size
        count = min(len(documents.input_ids), max(1, CALIBRATION_LOGITS // len(calibration) // size))
        windows = torch.linspace(0, len(documents.input_ids) - 1, count).long()
        for batch in windows.split(batch_size):
            scored = documents.labels[batch] != NOT_SCORED
            logits.append(_only(_read(network, documents.input_ids[batch]).float(), scored))
            labels.append(documents.labels[batch][scored])
    rows = torch.cat(logits)
    if rows.isnan().any():
        raise TrainingError(
            f"{name} gives no number for some text on which its temperature is fitted; its weights or one of its "
            "members' are damaged or not a number."
        )
    return fit_temperature(rows, torch.cat(labels).to(rows.device))
