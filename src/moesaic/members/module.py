"""Any PyTorch module, and any fitted scikit-learn estimator, as a member that meets others at its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModuleMember:
    """A PyTorch module with a name.

    Attributes:
        name: What tables and routings call it.
        network: Maps its inputs to logits or regression outputs, ``(batch, output)``, or to an object that has them as
            ``logits``, as Transformers' classifiers do.

    Example:
        >>> ModuleMember("linear", nn.Linear(4, 3))
        ModuleMember('linear', Linear, 15 parameters)
    """

    name: str
    network: nn.Module
    tokenizer: PreTrainedTokenizerBase | None = None

    def __repr__(self) -> str:
        num_parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return f"ModuleMember({self.name!r}, {type(self.network).__name__}, {num_parameters:,} parameters)"


@dataclass(frozen=True)
class EstimatorMember:
    """A fitted scikit-learn classifier, regressor or pipeline with a name.

    Attributes:
        name: What tables and routings call it.
        estimator: The fitted estimator; see :class:`EstimatorModule` for what is read of it.

    Example:
        >>> from sklearn.linear_model import LinearRegression
        >>> EstimatorMember("line", LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])).network([[2.0]])
        tensor([[5.]])
    """

    name: str
    estimator: Any
    tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def network(self) -> EstimatorModule:
        """The estimator as a module."""
        return EstimatorModule(self.estimator)

    def __repr__(self) -> str:
        return f"EstimatorMember({self.name!r}, {type(self.estimator).__name__})"


class EstimatorModule(nn.Module):
    """A fitted scikit-learn estimator as a module; gradients stop at it.

    Its outputs are, of the three, the first that the estimator has: the logarithm of ``predict_proba``;
    ``decision_function``, whose softmax then stands in for probabilities, though its scale is that of margins and not
    of log-odds, so give it a temperature (:class:`moesaic.combiners.Tempered`); ``predict``, for regressors.

    Args:
        estimator: The fitted estimator. A classifier's outputs stand in the order of its ``classes_``.
        num_classes: Number of classes, where the estimator may have seen only some of them; its own classes must then
            be numbers from 0. Without it the outputs are those of its ``classes_`` alone.
        smallest: Probabilities below this are raised to it, since the logarithm of zero would rule a class out
            whatever other members say.

    Raises:
        ValueError: If the estimator can neither predict nor score.
    """

    def __init__(self, estimator: Any, num_classes: int | None = None, smallest: float = 1e-6) -> None:
        super().__init__()
        if not any(hasattr(estimator, method) for method in ("predict_proba", "decision_function", "predict")):
            raise ValueError(
                f"{type(estimator).__name__} has none of predict_proba, decision_function and predict, so there is "
                "nothing to combine. Give a fitted classifier, regressor, or a pipeline that ends in one."
            )
        self.estimator = estimator
        self.num_classes = num_classes
        self.smallest = smallest

    def forward(self, inputs: Any) -> Float[Tensor, "batch output"]:
        """Score inputs.

        Args:
            inputs: What the estimator reads: an array, a tensor, or texts.

        Returns:
            Logits of a classifier, or predictions of a regressor.
        """
        rows = inputs.detach().cpu().numpy() if isinstance(inputs, Tensor) else inputs
        if hasattr(self.estimator, "predict_proba"):
            outputs = self._spread(np.log(np.clip(self.estimator.predict_proba(rows), self.smallest, None)))
        elif hasattr(self.estimator, "decision_function"):
            outputs = self._spread(_with_both_classes(self.estimator.decision_function(rows)))
        else:
            outputs = self.estimator.predict(rows)
        tensor = torch.from_numpy(np.asarray(outputs, dtype=np.float32))
        return tensor if tensor.dim() == 2 else tensor.unsqueeze(-1)

    def _spread(self, scores: np.ndarray) -> np.ndarray:
        """Give a class that the estimator has not seen the lowest of the scores."""
        if self.num_classes is None or scores.shape[1] == self.num_classes:
            return scores
        lowest = min(float(scores.min()), np.log(self.smallest))
        spread = np.full((len(scores), self.num_classes), lowest)
        spread[:, self.estimator.classes_] = scores
        return spread


def _with_both_classes(scores: np.ndarray) -> np.ndarray:
    """Scores of every class; with two classes scikit-learn gives one number, that of the second against the first."""
    return np.stack([-scores / 2, scores / 2], axis=-1) if scores.ndim == 1 else scores
