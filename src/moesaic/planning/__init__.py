"""What a model will need, before there is one: parameters, memory, time."""

from moesaic.planning.calibration import training_speed
from moesaic.planning.size import ModelSize, model_size, training_bytes

__all__ = ["ModelSize", "model_size", "training_bytes", "training_speed"]
