"""What classifiers and regressors minimize, and learners: what makes a fitted network of examples and a seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.pipeline import Pipeline
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from moesaic.data import ExampleBatch, Examples, ExampleSampler
from moesaic.members import EstimatorModule, Execution, TextClassifier, check_execution, choose_execution
from moesaic.training.loop import fit
from moesaic.training.objectives import Losses
from moesaic.training.options import TrainingOptions
from moesaic.training.processes import training_device
from moesaic.training.stacked import fit_stacked, trains_stacked


@dataclass(frozen=True)
class Classification:
    """Cross-entropy, each example counted by its weight; of a sum of scores where the examples come with offsets.

    Attributes:
        label_smoothing: Share of each target that is spread evenly over all classes.
        shrinkage: Factor on the network's scores before they are added to the offsets: boosting's step size.
    """

    label_smoothing: float = 0.0
    shrinkage: float = 1.0

    def __call__(self, network: Any, batch: ExampleBatch) -> Losses:
        """Compute the loss on a batch."""
        logits = logits_of(network(*batch.inputs)).float()
        if batch.offsets is not None:
            logits = batch.offsets + self.shrinkage * logits
        nats = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=self.label_smoothing)
        loss = weighted_mean(nats, batch.weights)
        return Losses(loss, {"nats": loss})


@dataclass(frozen=True)
class AdversarialClassification:
    """Classification, half of it on embeddings that are moved to where the loss is higher: for networks that read text.

    Each batch is read twice: as it is, and with the embedding tables moved along their gradient. A network then gives
    near texts near answers, which helps where examples are few. A step takes somewhat more than twice the time.

    Attributes:
        objective: What is minimized.
        norm: Length by which all embedding tables together are moved.

    Reference: Miyato et al. (2017), section 3, https://arxiv.org/abs/1605.07725; here the tables are moved, not each
    text's own vectors.
    """

    objective: Classification = Classification()
    norm: float = 5.0

    def __call__(self, network: Any, batch: ExampleBatch) -> Losses:
        """Compute the loss on a batch.

        Raises:
            ValueError: If the network has no embeddings.
        """
        tables = {
            f"{name}.weight": module.weight
            for name, module in network.named_modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        }
        if not tables:
            raise ValueError(
                f"Adversarial training moves embeddings, and {type(network).__name__} has none. Use Classification."
            )
        plain = self.objective(network, batch)
        if not network.training:
            return plain
        given = torch.autograd.grad(plain.total, list(tables.values()), retain_graph=True, allow_unused=True)
        gradients = {name: gradient for name, gradient in zip(tables, given, strict=True) if gradient is not None}
        length = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().clamp_min(1e-12)
        moved = {name: tables[name] + self.norm / length * gradient for name, gradient in gradients.items()}

        def read_moved(*inputs: Any) -> Any:
            return functional_call(network, moved, inputs)

        worse = self.objective(read_moved, batch)
        return Losses((plain.total + worse.total) / 2, plain.parts)


def regression(network: Any, batch: ExampleBatch) -> Losses:
    """The mean squared error, each example counted by its weight."""
    outputs = logits_of(network(*batch.inputs)).float()
    squares = (outputs - batch.labels.view_as(outputs)).square().flatten(1).sum(dim=1)
    loss = weighted_mean(squares, batch.weights)
    return Losses(loss, {"squared_error": loss})


def logits_of(output: Any) -> Tensor:
    """The scores, whether a network returns them or an object that has them."""
    return output if isinstance(output, Tensor) else output.logits


def weighted_mean(values: Float[Tensor, " batch"], weights: Float[Tensor, " batch"] | None) -> Float[Tensor, ""]:
    """Mean over a batch; weights have a mean of 1 over all examples, so a batch of light ones has a small loss."""
    return values.mean() if weights is None else (values * weights).mean()


class Learner(Protocol):
    """A learning algorithm: examples and a seed become a fitted network.

    Bagging, boosting and out-of-fold prediction need nothing else, so their members may be of different kinds.
    """

    def __call__(self, examples: Examples, *, seed: int) -> nn.Module:
        """Fit a new network; it is called with the inputs of examples, and returns their scores."""
        ...


@dataclass(frozen=True)
class NetworkLearner:
    """Trains a network by gradient descent.

    Attributes:
        make: Makes an untrained network; it is given the examples, so that a vocabulary can be made from them.
        options: How it is trained; the seed is that of the call.
        objective: What is minimized.

    Example:
        >>> examples = Examples(torch.tensor([[-1.0], [1.0]] * 8), torch.tensor([0, 1] * 8))
        >>> options = TrainingOptions(num_steps=30, batch_size=16, learning_rate=0.1)
        >>> learner = NetworkLearner(lambda examples, seed: nn.Linear(1, 2), options)
        >>> learner(examples, seed=0)(torch.tensor([[3.0]])).argmax().item()
        1
    """

    make: Callable[[Examples, int], nn.Module]
    options: TrainingOptions
    objective: Classification | Callable[[Any, ExampleBatch], Losses] = Classification()

    def __call__(self, examples: Examples, *, seed: int) -> nn.Module:
        """See :class:`Learner`.

        Raises:
            DataError: If there are fewer examples than a batch has.
        """
        (network,) = self.fit_members([examples], seeds=[seed])
        return network

    def fit_members(
        self, samples: Sequence[Examples], *, seeds: Sequence[int], execution: Execution | Literal["auto"] = "auto"
    ) -> list[nn.Module]:
        """Train one network a sample.

        Args:
            samples: What each learns from.
            seeds: One a network.
            execution: ``stacked``: as one model (:func:`moesaic.training.fit_stacked`); ``loop``: one after the other;
                ``auto``: stacked where that pays (:func:`moesaic.members.choose_execution`).

        Raises:
            DataError: If there are fewer examples than a batch has.
            ValueError: If ``execution`` is none of these, or stacking is asked for and the networks or options do not
                allow it.
        """
        check_execution(execution)
        with torch.random.fork_rng(devices=[]):
            networks, samplers = [], []
            for examples, seed in zip(samples, seeds, strict=True):
                torch.manual_seed(seed)
                networks.append(self.make(examples, seed))
                samplers.append(sample_examples(networks[-1], examples, batch_size=self.options.batch_size, seed=seed))
            if execution == "auto":
                execution = self._choose_execution(networks, samplers)
            if execution == "stacked":
                return fit_stacked(networks, samplers, self.objective, replace(self.options, seed=seeds[0]))
            for network, sampler, seed in zip(networks, samplers, seeds, strict=True):
                fit(network, sampler, self.objective, replace(self.options, seed=seed))
        return networks

    def _choose_execution(self, networks: Sequence[nn.Module], samplers: Sequence[ExampleSampler]) -> Execution:
        inputs = samplers[0].examples.inputs
        if len(inputs) != 1 or not trains_stacked(self.options):
            return "loop"
        # The last axis holds the features, those before it rows and positions.
        return choose_execution(networks, (self.options.batch_size, *inputs[0].shape[1:-1]))


def sample_examples(network: nn.Module, examples: Examples, *, batch_size: int, seed: int) -> ExampleSampler:
    """Batches of examples as a network reads them; texts are encoded here, once."""
    lengths = None
    if isinstance(network, TextClassifier):
        inputs = network.prepare(examples.inputs)
        lengths = network.lengths(*inputs)
    else:
        inputs = (torch.as_tensor(examples.inputs),)
    weights = examples.weights if examples.weights is None else examples.weights / examples.weights.mean()
    batch = ExampleBatch(inputs, examples.labels, weights, examples.offsets)
    return ExampleSampler(batch, batch_size, seed, lengths)


@dataclass(frozen=True)
class EstimatorLearner:
    """Fits a scikit-learn estimator.

    Attributes:
        make: Makes an estimator that is not fitted, from a seed (its ``random_state``).
        num_classes: Number of classes, of which a sample may lack some; not given for a regressor.
    """

    make: Callable[[int], Any]
    num_classes: int | None = None

    def __call__(self, examples: Examples, *, seed: int) -> EstimatorModule:
        """See :class:`Learner`.

        Raises:
            ValueError: If the examples have offsets, which estimators cannot take, or weights that this one does not
                take.
        """
        if examples.offsets is not None:
            raise ValueError(
                "A scikit-learn estimator cannot be trained on top of other scores, so it cannot be gradient-boosted "
                "here. Use a NetworkLearner, or adaboost."
            )
        estimator = self.make(seed)
        rows = examples.inputs.numpy() if isinstance(examples.inputs, Tensor) else examples.inputs
        weights = {} if examples.weights is None else {_weights_name(estimator): examples.weights.numpy()}
        estimator.fit(rows, examples.labels.numpy(), **weights)
        return EstimatorModule(estimator, num_classes=self.num_classes)


def _weights_name(estimator: Any) -> str:
    """What an estimator calls the weights of examples; in a pipeline they are the last step's."""
    name, last = estimator.steps[-1] if isinstance(estimator, Pipeline) else ("", estimator)
    parameters = inspect.signature(last.fit).parameters.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    if not takes_any and "sample_weight" not in {parameter.name for parameter in parameters}:
        raise ValueError(
            f"{type(last).__name__} takes no sample_weight, so it cannot be fitted on weighted examples, as boosting "
            "and EM do. Use an estimator whose fit takes it, such as LogisticRegression, LinearRegression or a tree, "
            "or a NetworkLearner."
        )
    return f"{name}__sample_weight" if name else "sample_weight"


@torch.no_grad()
def predict_logits(network: nn.Module, inputs: Any, *, batch_size: int = 512) -> Float[Tensor, "row output"]:
    """What a network says of each input, in evaluation mode, on the CPU.

    Args:
        network: Reads inputs like those of :class:`moesaic.data.Examples`.
        inputs: Texts, or a tensor or array.
        batch_size: Inputs read at once.
    """
    was_training = network.training
    network.eval()
    parts = []
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size]
        if not isinstance(network, (TextClassifier, EstimatorModule)) and isinstance(part, (Tensor, np.ndarray)):
            part = torch.as_tensor(part).to(training_device())
        parts.append(logits_of(network(part)).float().cpu())
    network.train(was_training)
    return torch.cat(parts)


def accuracy(logits: Float[Tensor, "row class"], labels: Int[Tensor, " row"]) -> float:
    """Share of the rows whose highest score is that of the right class."""
    return float((logits.argmax(dim=-1) == labels).float().mean())
