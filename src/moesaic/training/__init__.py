"""One loop, what it minimizes, and how it is resumed and shared over processes."""

from moesaic.training.loop import fit
from moesaic.training.objectives import Losses, Objective, SparseLanguageModeling, language_modeling
from moesaic.training.options import TrainingOptions, resolve_precision
from moesaic.training.processes import is_main, process_group, training_device, wait_for_all
from moesaic.training.records import OnStep, StepRecord

__all__ = [
    "Losses",
    "Objective",
    "OnStep",
    "SparseLanguageModeling",
    "StepRecord",
    "TrainingOptions",
    "fit",
    "is_main",
    "language_modeling",
    "process_group",
    "resolve_precision",
    "training_device",
    "wait_for_all",
]
