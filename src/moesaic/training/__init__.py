"""One loop, what it minimizes, and how it is resumed and shared over processes."""

from moesaic.training.loop import fit
from moesaic.training.memory import keep_memory_warm
from moesaic.training.objectives import Losses, Objective, SparseLanguageModeling, language_modeling
from moesaic.training.options import TrainingOptions, resolve_precision
from moesaic.training.processes import is_main, process_group, training_device, wait_for_all
from moesaic.training.records import OnStep, StepRecord
from moesaic.training.stacking import (
    HeldOut,
    collect_held_out,
    combined_nats,
    fit_combiner,
    fit_weights,
    join_held_out,
    select_greedily,
)
from moesaic.training.train import FEED_FORWARD_ONLY, ROUTER_ONLY, train

__all__ = [
    "FEED_FORWARD_ONLY",
    "ROUTER_ONLY",
    "HeldOut",
    "Losses",
    "Objective",
    "OnStep",
    "SparseLanguageModeling",
    "StepRecord",
    "TrainingOptions",
    "collect_held_out",
    "combined_nats",
    "fit",
    "fit_combiner",
    "fit_weights",
    "is_main",
    "join_held_out",
    "keep_memory_warm",
    "language_modeling",
    "process_group",
    "resolve_precision",
    "select_greedily",
    "train",
    "training_device",
    "wait_for_all",
]
