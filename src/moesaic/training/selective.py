"""Find out when one member is to be asked alone: the threshold of a selective combiner."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from moesaic.combiners import CalibratedThreshold, Combiner, Selective, calibrate_threshold
from moesaic.combiners.deferral import ClassConfidence
from moesaic.combiners.selective import token_confidence
from moesaic.data import NOT_SCORED
from moesaic.tasks import next_token_nats
from moesaic.training.stacking import HeldOut


@torch.no_grad()
def calibrate_selective(
    combiner: Combiner,
    held_out: Mapping[str, HeldOut],
    *,
    measure: ClassConfidence = "probability",
    main: int | None = 0,
    max_share: float | None = None,
    tolerance: float | None = None,
    batch_size: int = 32,
) -> CalibratedThreshold:
    """Find the threshold of :class:`moesaic.combiners.Selective` on text that no member was trained on.

    Either the share of tokens is given at which members may be combined, and the threshold is taken that makes the text
    likeliest within it; or the nats per token that may be lost to combining at every token, and the threshold is taken
    that combines at the fewest. Every token counts the same, whatever its domain. Make the combiner with what is found:
    ``Selective(combiner, found.threshold, measure, main)``.

    Args:
        combiner: Combines the members where the main one is unsure; as it will be used, hence trained already.
        held_out: What the members say of each domain's text (:func:`collect_held_out`).
        measure: See :class:`moesaic.combiners.Selective`, as for ``main``.
        main: Position of the main member, or ``None`` for the one that the combiner ranks first.
        max_share: Share of the tokens at which members may be combined, from 0 to 1.
        tolerance: Nats per token that may be lost.
        batch_size: Windows combined at once.

    Returns:
        The threshold; ``deferred`` is the share of tokens at which members are combined, and qualities are
        log-probabilities of the text in nats per token: of the selective combiner, the main member and the combiner.

    Raises:
        ValueError: If the combiner cannot be used selectively, no text is given, or not exactly one limit is.
    """
    if (max_share is None) == (tolerance is None):
        raise ValueError(
            "Give either max_share, the share of tokens at which members may be combined, or tolerance, the nats per "
            "token that may be lost."
        )
    if max_share is not None and not 0 <= max_share <= 1:
        raise ValueError(f"max_share must be from 0 to 1, got {max_share:g}.")
    selective = Selective(combiner, float("inf"), measure, main).eval()  # a router's noise is for training
    scored = [
        _score(selective, part.take(slice(start, start + batch_size)))
        for part in held_out.values()
        for start in range(0, len(part), batch_size)
    ]
    if not scored:
        raise ValueError("A threshold is found on held-out text, and there is none. Set some aside.")
    confidences, alone, combined = torch.cat(scored, dim=1)
    return calibrate_threshold(confidences, alone, combined, max_deferred=max_share, tolerance=tolerance)


def _score(selective: Selective, part: HeldOut) -> Float[Tensor, "three scored"]:
    """How sure the main member is of each token, and what it and the combiner make of the one that comes."""
    if selective.combiner.num_members is None:
        selective.attach(len(part.member_logits), part.member_logits.shape[-1])
    mask = torch.ones_like(part.input_ids, dtype=torch.bool)
    alone = selective.answer_alone(part.member_logits, part.input_ids, mask)
    combined = selective.combiner(part.member_logits, part.input_ids, mask).logits
    nats = (next_token_nats(logits, part.labels) for logits in (alone, combined))
    figures = [token_confidence(alone, selective.measure), *(-of_tokens for of_tokens in nats)]
    return torch.stack(figures)[:, part.labels != NOT_SCORED]
