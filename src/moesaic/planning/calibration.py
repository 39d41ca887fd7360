"""How quickly this machine trains a model: a few steps of the real loop on random tokens."""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from moesaic.data import BatchSampler, PackedDocuments
from moesaic.planning.size import model_size
from moesaic.training import Objective, StepRecord, TrainingOptions, fit

_STEPS = 4
"""Optimizer steps that are made; the first warms up and does not count."""

_MAX_PARAMETERS = 50_000_000
"""A larger model is not made: its time a step is extrapolated from one layer and two."""


def training_speed(config: Any, objective: Objective, options: TrainingOptions) -> float:
    """Tokens per second that this machine trains, measured within seconds.

    Args:
        config: A Transformers configuration.
        objective: What is minimized.
        options: The stage's options; its number of steps does not matter.
    """
    if model_size(config).total <= _MAX_PARAMETERS:
        return options.tokens_per_step / _seconds_per_step(config, objective, options)
    one, two = (_seconds_per_step(_with_layers(config, count), objective, options) for count in (1, 2))
    return options.tokens_per_step / (one + (config.num_hidden_layers - 1) * max(0.0, two - one))


def _with_layers(config: Any, count: int) -> Any:
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = count
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = shallow.layer_types[:count]
    return shallow


def _seconds_per_step(config: Any, objective: Objective, options: TrainingOptions) -> float:
    with torch.random.fork_rng():
        network = AutoModelForCausalLM.from_config(config)
        num_tokens = options.sequence_length + 2
        tokens = torch.randint(config.vocab_size, (num_tokens,), dtype=torch.int32)
        packed = PackedDocuments(tokens, torch.tensor([0]), torch.tensor([num_tokens]))
        sampler = BatchSampler([packed], options.batch_size, options.sequence_length, options.seed)
        times: list[float] = []

        def on_step(record: StepRecord) -> None:
            times.append(time.perf_counter())

        fit(network, sampler, objective, replace(options, num_steps=_STEPS, checkpoint_every=0), on_step=on_step)
    # The quickest step: what else runs on the machine only ever adds time.
    return min(after - before for before, after in itertools.pairwise(times))
