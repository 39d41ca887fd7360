"""Train a model or a mixture on text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from moesaic.data import BatchSampler, Data, load_domain, name_sources, pack_documents
from moesaic.errors import DataError
from moesaic.members import AdaptedLM, adapter_only
from moesaic.mixture import Mixture
from moesaic.moe import find_choices, is_sparse
from moesaic.training.loop import fit
from moesaic.training.objectives import (
    ChosenLanguageModeling,
    Objective,
    SparseLanguageModeling,
    language_modeling,
    mixture_language_modeling,
)
from moesaic.training.options import TrainingOptions
from moesaic.training.records import OnStep, StepRecord
from moesaic.types import Member

FEED_FORWARD_ONLY = {"*": 0.0, "*.mlp.*": 1.0}
"""Learning-rate scales that train a dense model's feed-forward layers alone: what an expert does not share."""

ROUTER_ONLY = {"*": 0.0, "*.gate.weight": 1.0, "*.gate.choice.*": 1.0, "combiner.*": 1.0}
"""Learning-rate scales that train routers alone: those inside a sparse model, or a mixture's combiner."""


def train(
    model: Member,
    data: Data,
    *,
    only: Literal["router"] | None = None,
    checkpoint_folder: str | Path | None = None,
    on_step: OnStep | None = None,
    **options: Any,
) -> list[StepRecord]:
    """Train a model in place: a dense one, a sparse mixture of experts, or a mixture of whole models.

    The loss is that of the next token; a sparse mixture's load-balance and z-loss are added, and the penalty that a
    combiner of whole models asks for. Domains are drawn equally often. Train a mixture's router first, then everything
    jointly: that is two calls. Of a member that is an adapter on a backbone, the adapter alone is trained.

    Args:
        model: What :func:`moesaic.load_member` returned, or a :class:`moesaic.Mixture`.
        data: A file or folder, a source, or several by the names of their domains.
        only: ``router`` leaves everything but the router as it is.
        checkpoint_folder: Where to continue from and to write checkpoints; without it there are none.
        on_step: Told of every step.
        **options: Fields of :class:`moesaic.training.TrainingOptions`, such as ``num_steps`` and ``learning_rate``.

    Returns:
        One record a step.

    Raises:
        DataError: If the text cannot be read, or is shorter than one sequence.
        TrainingError: If the loss is no longer a number.
        ValueError: If the model has no tokenizer, or nothing to train.

    Example:
        >>> from moesaic.members import CausalLM
        >>> from moesaic.testing import tiny_causal_lm, tiny_tokenizer
        >>> member = CausalLM("tiny", tiny_causal_lm(), tiny_tokenizer())
        >>> class Rhyme:
        ...     def documents(self): yield "the cat sat on the mat " * 20
        >>> history = train(member, Rhyme(), num_steps=20, batch_size=4, sequence_length=16, learning_rate=1e-2)
        >>> history[-1].loss < history[0].loss
        True
    """
    frozen = ROUTER_ONLY if only == "router" else {}
    if isinstance(model.network, AdaptedLM):
        frozen = adapter_only(model.network.adapter)
    scales = frozen | dict(options.pop("learning_rate_scales", {}))
    settings = TrainingOptions(**options, learning_rate_scales=scales)
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer, so it cannot read text. Load it with one.")
    packed = []
    for name, source in name_sources(data).items():
        documents = load_domain(name, source, validation_fraction=0.0, test_fraction=0.0).train
        packed.append(pack_documents(documents, model.tokenizer))
        if len(packed[-1].tokens) <= settings.sequence_length:
            raise DataError(
                f"{name!r} has {len(packed[-1].tokens)} tokens, fewer than one sequence of {settings.sequence_length} "
                "and the token after it. Add text, or lower sequence_length."
            )
    sampler = BatchSampler(packed, settings.batch_size, settings.sequence_length, settings.seed)
    folder = None if checkpoint_folder is None else Path(checkpoint_folder)
    return fit(model.network, sampler, _objective(model.network), settings, checkpoint_folder=folder, on_step=on_step)


def _objective(network: Any) -> Objective:
    if isinstance(network, Mixture):
        return mixture_language_modeling
    if find_choices(network):
        return ChosenLanguageModeling()
    return SparseLanguageModeling() if is_sparse(network.config) else language_modeling
