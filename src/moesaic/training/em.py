"""Expectation maximization: experts and router of a mixture fitted in turns, by any learning algorithm."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor, nn

from moesaic.data import Examples
from moesaic.errors import TrainingError
from moesaic.members import ModuleMember
from moesaic.routed_mixture import RoutedMixture
from moesaic.training.classification import Learner, NetworkLearner, predict_logits
from moesaic.training.mixture_losses import class_nats, gaussian_nats, squared_errors

FEWEST_ROWS = 1.0
"""An expert whose responsibilities add up to less than this many rows is dead: it has nothing to be fitted on."""

_OWN_CLUSTER = 0.9
"""What an expert is responsible for to begin with, of each row of its cluster; the others share the rest."""


@dataclass(frozen=True)
class EMIteration:
    """One round of expectation maximization.

    Attributes:
        log_likelihood: Of the labels after this round, in nats, mean over the rows.
        fitted: Experts whose new fit was kept, the likelihood being no lower with it; the others stayed as they were.
        router_fitted: Whether the router's new fit was kept.
        dead: Experts that were not fitted, for want of rows.
    """

    log_likelihood: float
    fitted: tuple[int, ...]
    router_fitted: bool
    dead: tuple[int, ...]


@dataclass(frozen=True)
class EMFit:
    """What expectation maximization made; :meth:`mixture` is the model.

    Attributes:
        experts: The experts.
        router: Maps inputs to one score an expert.
        noise_scales: Standard deviation of the Gaussian around each expert's output, in the labels' unit; ``None``
            for classes.
        responsibilities: Share of each row's likelihood that each expert accounts for.
        iterations: What happened in each round, the first being the fit to the responsibilities at the start.
    """

    experts: tuple[nn.Module, ...]
    router: nn.Module
    noise_scales: tuple[float, ...] | None
    responsibilities: Float[Tensor, "row expert"]
    iterations: tuple[EMIteration, ...]

    def mixture(self, names: Sequence[str] | None = None, *, top_k: int | None = None) -> RoutedMixture:
        """Make the mixture.

        Args:
            names: What the experts are called; ``expert-0`` and so on, if not given.
            top_k: Number of experts asked about each row; ``None`` asks all, which is what was fitted.
        """
        names = names or [f"expert-{number}" for number in range(len(self.experts))]
        members = [ModuleMember(name, expert) for name, expert in zip(names, self.experts, strict=True)]
        return RoutedMixture(members, self.router, top_k=top_k, regression=self.noise_scales is not None)

    def log_likelihood(self, examples: Examples) -> float:
        """Log-likelihood of the labels of any examples under the mixture, in nats, mean over the rows."""
        scales = self.noise_scales or (None,) * len(self.experts)
        nats = [_nats(expert, examples, scale) for expert, scale in zip(self.experts, scales, strict=True)]
        return _expect(torch.stack(nats, dim=1), _log_gates(self.router, examples), _counts(examples))[1]


def fit_em(
    experts: Sequence[Learner],
    router: Learner,
    examples: Examples,
    *,
    regression: bool = False,
    responsibilities: Float[Tensor, "row expert"] | None = None,
    num_iterations: int = 50,
    tolerance: float = 1e-5,
    smallest_noise: float = 1e-2,
    seed: int = 0,
) -> EMFit:
    """Fit a mixture of experts by expectation maximization.

    The E-step computes each expert's responsibility for each row, ``r_m = g_m p_m / Σ_n g_n p_n``. The M-step fits
    each expert on all rows, weighted by its responsibilities, and the router on every row once for each expert: as a
    classifier of who is responsible, weighted likewise. Both are ordinary weighted fits, so networks, scikit-learn
    estimators and mixtures of these serve. For regression, an expert is a Gaussian around its output, whose scale is
    fitted too.

    Where learners reach their optimum (``LinearRegression``, ``LogisticRegression`` without penalty) this is EM. Others
    (networks, penalized estimators) make it generalized EM: a fit is kept only if the expected likelihood is no lower
    with it, so that the mixture's likelihood never decreases. Networks go on training from where they are.

    A learner may itself be EM (``lambda examples, seed: fit_em(..., examples, seed=seed).mixture()``): a hierarchical
    mixture. To the mixture above, one of numbers is then a Gaussian around its output.

    An expert dies when its responsibilities add up to less than :data:`FEWEST_ROWS` rows. It stays in the mixture as it
    was last fitted, with a warning, is sent next to nothing, and is fitted again if rows come back to it.

    Args:
        experts: One learner an expert; they must count examples by their weights.
        router: The router's learner, a classifier with one class an expert.
        examples: What is learned from.
        regression: The labels are numbers, not classes.
        responsibilities: Where to begin: a distribution over the experts for each row, for example by known domains.
            Without it the inputs, which must be numbers, are clustered by k-means, a cluster an expert.
        num_iterations: Rounds at most, after the first fit.
        tolerance: Stop at a round that gains less than this, in nats per row.
        smallest_noise: Lower bound on a Gaussian's scale, as a share of the labels' standard deviation: without it the
            likelihood has no maximum, since an expert that meets a single row exactly has it without bound.
        seed: Makes the clusters and the seed of every fit.

    Returns:
        The experts, the router, and the likelihood of every round.

    Raises:
        ValueError: If there is no expert, one takes no weights, the responsibilities are none, an expert has no row to
            begin with, the examples have offsets, ``num_iterations`` is below 0, or ``smallest_noise`` is not above 0.
        TrainingError: If the likelihood is no longer a number.

    Example:
        >>> from sklearn.linear_model import LinearRegression, LogisticRegression
        >>> from moesaic.training import EstimatorLearner
        >>> inputs = torch.linspace(-1, 1, 40).unsqueeze(1)
        >>> line = EstimatorLearner(lambda seed: LinearRegression())
        >>> router = EstimatorLearner(lambda seed: LogisticRegression(C=1000), num_classes=2)
        >>> fitted = fit_em([line, line], router, Examples(inputs, inputs.abs().squeeze(1)), regression=True)
        >>> fitted.mixture()(torch.tensor([[-0.8], [0.8]])).logits.round(decimals=2).tolist()
        [[0.800...], [0.800...]]

    References: Jordan and Jacobs (1994), Hierarchical mixtures of experts and the EM algorithm, sections 4 and 5;
    Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm, section 3
    (generalized EM).
    """
    _check(experts, examples, num_iterations, smallest_noise)
    if responsibilities is None:
        responsibilities = _clusters(examples, len(experts), seed)
    _check_responsibilities(responsibilities, len(examples), len(experts))
    counts = _counts(examples)
    noise_floor = _noise_floor(examples.labels, smallest_noise) if regression else None
    step = _MaximizationStep(tuple(experts), router, examples, counts, noise_floor)
    shares = responsibilities.double()
    state: _State | None = None
    iterations: list[EMIteration] = []
    for number in range(num_iterations + 1):
        state = step(shares, state, seed=seed + number * (len(experts) + 1))
        shares, log_likelihood = _expect(state.nats, state.log_gates, counts)
        if not math.isfinite(log_likelihood):
            raise TrainingError(
                f"Round {number} of {num_iterations}: the log-likelihood is {log_likelihood}, as some expert or the "
                "router gives what is no number. Lower its learning rate, or check the labels."
            )
        iterations.append(EMIteration(log_likelihood, state.fitted, state.router_fitted, state.dead))
        if number:
            gain = log_likelihood - iterations[-2].log_likelihood
            assert gain >= -1e-9 * max(1, abs(log_likelihood)), f"the likelihood fell by {-gain:g} nats"
            if gain < tolerance:
                break
    assert state is not None
    _warn_of_dead(state.dead)
    scales = tuple(expert.noise_scale for expert in state.experts if expert.noise_scale is not None)
    networks = tuple(expert.network for expert in state.experts)
    return EMFit(networks, state.router, scales or None, shares.float(), tuple(iterations))


@dataclass(frozen=True)
class _Expert:
    """An expert, and what the label of each row costs it in nats."""

    network: nn.Module
    noise_scale: float | None
    nats: Float[Tensor, " row"]


@dataclass(frozen=True)
class _State:
    """The mixture after an M-step, and what was fitted in it; see :class:`EMIteration`."""

    experts: tuple[_Expert, ...]
    router: nn.Module
    log_gates: Float[Tensor, "row expert"]
    fitted: tuple[int, ...]
    router_fitted: bool
    dead: tuple[int, ...]

    @property
    def nats(self) -> Float[Tensor, "row expert"]:
        """What each label costs each expert."""
        return torch.stack([expert.nats for expert in self.experts], dim=1)


@dataclass(frozen=True)
class _MaximizationStep:
    """Fits experts and router to responsibilities; each stays as it is where the new fit would be worse."""

    experts: tuple[Learner, ...]
    router: Learner
    examples: Examples
    counts: Float[Tensor, " row"]
    noise_floor: float | None

    def __call__(self, shares: Float[Tensor, "row expert"], before: _State | None, *, seed: int) -> _State:
        """Fit all; without a state before, whatever the fits are like they are kept."""
        weights = shares * self.counts.unsqueeze(1)
        dead = tuple(number for number, own in enumerate(weights.T) if own.sum() < FEWEST_ROWS)
        if before is None and dead:
            raise ValueError(
                f"Expert {dead[0]} is responsible for less than {FEWEST_ROWS:g} row to begin with, so there is nothing "
                "to fit it on. Give it rows in responsibilities, or leave it out."
            )
        experts, fitted = [], []
        for number, own in enumerate(weights.T):
            old = None if before is None else before.experts[number]
            if old is not None and number in dead:
                experts.append(old)
                continue
            new = self._fit_expert(number, old, own, seed + number)
            experts.append(new)
            if old is None or new.network is not old.network:
                fitted.append(number)
        router, log_gates = self._fit_router(weights, before, seed + len(experts))
        router_fitted = before is None or router is not before.router
        return _State(tuple(experts), router, log_gates, tuple(fitted), router_fitted, dead)

    def _fit_expert(self, number: int, old: _Expert | None, own: Float[Tensor, " row"], seed: int) -> _Expert:
        learner = _continue(self.experts[number], None if old is None else old.network)
        new = self._rate(learner(replace(self.examples, weights=own.float()), seed=seed), own)
        if old is None:
            return new
        # The old network may have another scale now: it, too, is fitted to the new responsibilities.
        kept = self._rate(old.network, own)
        return new if (own * new.nats).sum() <= (own * kept.nats).sum() else kept

    def _rate(self, network: nn.Module, own: Float[Tensor, " row"]) -> _Expert:
        """What each label costs an expert; its Gaussian has the scale that suits its own rows best."""
        if self.noise_floor is None:
            return _Expert(network, None, _nats(network, self.examples, None))
        outputs = predict_logits(network, self.examples.inputs).double()
        squares = squared_errors(outputs, self.examples.labels)
        variance = float((own * squares).sum() / own.sum()) / outputs.shape[1]
        scale = max(variance**0.5, self.noise_floor)
        return _Expert(network, scale, gaussian_nats(squares, outputs.shape[1], scale))

    def _fit_router(
        self, weights: Float[Tensor, "row expert"], before: _State | None, seed: int
    ) -> tuple[nn.Module, Float[Tensor, "row expert"]]:
        # The cross-entropy with soft targets is that of every row once for each expert, weighted by its share.
        num_rows, num_experts = weights.shape
        repeated = self.examples.take(np.tile(np.arange(num_rows), num_experts))
        experts = torch.arange(num_experts).repeat_interleave(num_rows)
        targets = replace(repeated, labels=experts, weights=weights.T.flatten().float())
        router = _continue(self.router, None if before is None else before.router)(targets, seed=seed)
        log_gates = _log_gates(router, self.examples)
        if before is not None and (weights * log_gates).sum() < (weights * before.log_gates).sum():
            return before.router, before.log_gates
        return router, log_gates


def _continue(learner: Learner, network: nn.Module | None) -> Learner:
    """A learner that goes on from a network, where it learns in steps; estimators are fitted from scratch."""
    if network is None or not isinstance(learner, NetworkLearner):
        return learner
    return replace(learner, make=lambda examples, seed: copy.deepcopy(network))


def _expect(
    nats: Float[Tensor, "row expert"], log_gates: Float[Tensor, "row expert"], counts: Float[Tensor, " row"]
) -> tuple[Float[Tensor, "row expert"], float]:
    """The E-step: the responsibilities, and the log-likelihood, mean over the rows."""
    joint = log_gates - nats
    per_row = joint.logsumexp(dim=1)
    return (joint - per_row.unsqueeze(1)).exp(), float((counts * per_row).sum() / counts.sum())


def _nats(network: nn.Module, examples: Examples, noise_scale: float | None) -> Float[Tensor, " row"]:
    outputs = predict_logits(network, examples.inputs).double()
    if noise_scale is None:
        return class_nats(outputs, examples.labels)
    return gaussian_nats(squared_errors(outputs, examples.labels), outputs.shape[1], noise_scale)


def _log_gates(router: nn.Module, examples: Examples) -> Float[Tensor, "row expert"]:
    return predict_logits(router, examples.inputs).double().log_softmax(dim=1)


def _counts(examples: Examples) -> Float[Tensor, " row"]:
    """How much each row counts, 1 on average."""
    if examples.weights is None:
        return torch.ones(len(examples), dtype=torch.float64)
    return examples.weights.double() / examples.weights.double().mean()


def _noise_floor(labels: Tensor, smallest_noise: float) -> float:
    spread = labels.double().var(dim=0).mean().sqrt()
    return max(smallest_noise * float(spread), 1e-12)  # labels that are all the same have no spread


def _clusters(examples: Examples, num_experts: int, seed: int) -> Float[Tensor, "row expert"]:
    if not isinstance(examples.inputs, (Tensor, np.ndarray)):
        raise ValueError(
            "EM begins with clusters of the inputs, which must be numbers for that, got "
            f"{type(examples.inputs).__name__}. Give responsibilities, for example one expert a known domain."
        )
    rows = torch.as_tensor(examples.inputs).flatten(1).numpy()
    means = KMeans(num_experts, n_init=4, random_state=seed)
    clusters = means.fit_predict(rows, sample_weight=_counts(examples).numpy())
    own = nn.functional.one_hot(torch.from_numpy(clusters).long(), num_experts).double()
    return _OWN_CLUSTER * own + (1 - _OWN_CLUSTER) / num_experts


def _check(experts: Sequence[Learner], examples: Examples, num_iterations: int, smallest_noise: float) -> None:
    if not experts:
        raise ValueError("EM needs at least one expert, got none.")
    if num_iterations < 0:
        raise ValueError(f"num_iterations must be 0 or more, got {num_iterations}.")
    if smallest_noise <= 0:
        raise ValueError(f"smallest_noise must be above 0, got {smallest_noise:g}.")
    if examples.offsets is not None:
        raise ValueError(
            "EM fits experts on labels alone, and the examples have offsets, which are for boosting. Leave them out."
        )


def _check_responsibilities(responsibilities: Float[Tensor, "row expert"], num_rows: int, num_experts: int) -> None:
    shape = tuple(responsibilities.shape)
    if shape != (num_rows, num_experts):
        raise ValueError(
            f"responsibilities must have a row for each of the {num_rows} examples and a column for each of the "
            f"{num_experts} experts, got the shape {shape}."
        )
    sums = responsibilities.double().sum(dim=1)
    wrong = (responsibilities < 0).any(dim=1) | ~((sums - 1).abs() < 1e-4)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"responsibilities must be non-negative and sum to 1 in each row; row {row} is "
            f"{[round(value, 4) for value in responsibilities[row].tolist()]}."
        )


def _warn_of_dead(dead: Sequence[int]) -> None:
    if dead:
        which = "Expert" if len(dead) == 1 else "Experts"
        warnings.warn(
            f"{which} {', '.join(map(str, dead))} died: responsible for less than {FEWEST_ROWS:g} row of the examples, "
            "and left as last fitted. Use fewer experts, other responsibilities to begin with, or another seed.",
            stacklevel=3,
        )
