"""Routers without training: random, hidden-state prototypes, and the closed-form ridge router."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.moe.families import num_experts

RouterMethod = Literal["random", "prototypes", "ridge"]

_KEPT_TOKENS = 512
"""Tokens of each domain that are kept to choose the scale of the router logits."""

_SCALES = tuple(2.0**power for power in range(-4, 13))


def initialize_router(
    network: Any,
    batches: Sequence[Sequence[Int[Tensor, "_batch _position"]]],
    *,
    method: RouterMethod,
    seed: int = 0,
    ridge: float = 0.01,
) -> dict[int, Float[Tensor, "expert hidden"]]:
    """Fit the routers of a sparse model to its experts' domains, without training; they are set in place.

    ``random`` draws them. The other two look at what each router really reads (after attention and norm, with the
    domain's own expert at work in the layers below) on text of each domain. ``prototypes`` sets each expert's row to
    the mean direction of its domain's states, less the mean over domains. ``ridge`` solves for the row by regularized
    least squares against the domain labels, each domain counting the same. Rows have no bias, so the result is an
    ordinary checkpoint; the scale of the logits is the one under which the labels are likeliest.

    Args:
        network: A model that :func:`assemble` made, loaded with Transformers.
        batches: Text of each expert's domain, in the experts' order.
        method: ``random``, ``prototypes`` or ``ridge``.
        seed: Makes the random routers.
        ridge: Regularization, as a share of the mean eigenvalue of the states' covariance.

    Returns:
        The routers' weights, by layer.

    Raises:
        ValueError: If the domains are not as many as the experts, or the method does not exist.

    References: DUME, https://arxiv.org/abs/2603.29765, for the ridge router, here bias-free and class-balanced;
    mergekit's hidden-state gates, of which prototypes are the correction.
    """
    gates = find_gates(network)
    _check_domains(network, batches)
    if method == "random":
        weights = _random(gates, network.config.initializer_range, seed)
    elif method in ("prototypes", "ridge"):
        states = _collect(network, gates, batches)
        solve = _prototypes if method == "prototypes" else lambda layer: _ridge(layer, ridge)
        weights = {layer: _scale(solve(statistics), statistics) for layer, statistics in enumerate(states)}
    else:
        raise ValueError(f"method must be random, prototypes or ridge, got {method!r}.")
    _set(gates, weights)
    return weights


def extend_router(
    network: Any,
    batches: Sequence[Sequence[Int[Tensor, "_batch _position"]]],
    *,
    caution: float = 1.0,
    ridge: float = 0.001,
) -> dict[int, Float[Tensor, "expert hidden"]]:
    """Fit the last expert's router rows between those of the others, which are kept; they are set in place.

    A token goes to the newcomer first where its logit exceeds the largest one of the others. So the row is that of the
    logistic regression "of the newcomer's domain, or of another" whose offset is the largest kept logit, each domain
    counting the same.

    Args:
        network: A model that :func:`assemble` made, loaded with Transformers.
        batches: Text of each expert's domain, in the experts' order.
        caution: How many times as much each of the other domains counts as the newcomer's. More sends fewer of their
            tokens to the newcomer, and fewer of its own.
        ridge: Regularization, as a share of the mean eigenvalue of the states' covariance.

    Returns:
        The routers' weights, by layer.

    Raises:
        ValueError: If the domains are not as many as the experts, or ``caution`` is not positive.
    """
    if caution <= 0:
        raise ValueError(f"caution must be positive, got {caution:g}; 1 counts all domains the same.")
    gates = find_gates(network)
    _check_domains(network, batches)
    weights = {}
    for layer, (gate, states) in enumerate(zip(gates, _collect(network, gates, batches), strict=True)):
        kept = gate.weight.detach()[:-1]
        newcomer = _logistic_row(kept.double(), states, caution, ridge)
        weights[layer] = torch.cat([kept, newcomer.to(kept.dtype).unsqueeze(0)])
    _set(gates, weights)
    return weights


def find_gates(network: Any) -> list[Any]:
    """The routers of a sparse model, one a layer."""
    return [layer.mlp.gate for layer in network.model.layers]


def _check_domains(network: Any, batches: Sequence[Any]) -> None:
    if len(batches) != num_experts(network.config):
        raise ValueError(
            f"The model has {num_experts(network.config)} experts, but there is text of {len(batches)} domains."
        )


@torch.no_grad()
def _set(gates: Sequence[Any], weights: Mapping[int, Tensor]) -> None:
    for layer, gate in enumerate(gates):
        gate.weight.copy_(weights[layer])


@dataclass
class _States:
    """What the routers of one layer read, summed up: each domain's mean moments, and a sample of the states.

    Attributes:
        moments: Mean outer product of each domain's states, ``(domain, hidden, hidden)``.
        means: Mean of each domain's states, ``(domain, hidden)``.
        directions: Mean of each domain's states scaled to length 1, ``(domain, hidden)``.
        sample: Some states of each domain, ``(domain, token, hidden)``.
    """

    moments: Tensor
    means: Tensor
    directions: Tensor
    sample: Tensor


@torch.no_grad()
def _collect(network: Any, gates: Sequence[nn.Module], batches: Sequence[Sequence[Tensor]]) -> list[_States]:
    """Run each domain's text with its own expert forced, and sum up what each router reads."""
    per_domain = []
    for expert, texts in enumerate(batches):
        read: list[list[Tensor]] = [[] for _ in gates]
        with _forced(gates, expert, read):
            for input_ids in texts:
                network(input_ids=input_ids.to(network.device), use_cache=False)
        per_domain.append([_summarize(torch.cat(states)) for states in read])
    return [
        _States(*(torch.stack(values) for values in zip(*layer, strict=True)))
        for layer in zip(*per_domain, strict=True)
    ]


def _summarize(states: Float[Tensor, "token hidden"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    states = states.double()
    sample = states[torch.linspace(0, len(states) - 1, _KEPT_TOKENS).long()]
    return states.T @ states / len(states), states.mean(0), F.normalize(states, dim=-1).mean(0), sample


@contextmanager
def _forced(gates: Sequence[nn.Module], expert: int, read: Sequence[list[Tensor]]) -> Iterator[None]:
    """Send every token to one expert, and add what each router reads to its list."""

    def force(layer: int) -> Callable[..., Any]:
        def hook(gate: nn.Module, arguments: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> Any:
            hidden_states = arguments[0]
            read[layer].append(hidden_states.reshape(-1, hidden_states.shape[-1]))
            router_logits, weights, index = output
            # The other places of the top k must name experts too; with weight 0 they add nothing.
            places = torch.arange(index.shape[-1], device=index.device)
            forced_index = ((expert + places) % router_logits.shape[-1]).expand_as(index)
            forced_weights = (places == 0).to(weights.dtype).expand_as(weights)
            return router_logits, forced_weights, forced_index

        return hook

    handles = [gate.register_forward_hook(force(layer)) for layer, gate in enumerate(gates)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _random(gates: Sequence[Any], scale: float, seed: int) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(gate.weight.shape, generator=generator) * scale for layer, gate in enumerate(gates)}


def _prototypes(states: _States) -> Float[Tensor, "expert hidden"]:
    return F.normalize(states.directions - states.directions.mean(0), dim=-1)


def _ridge(states: _States, ridge: float) -> Float[Tensor, "expert hidden"]:
    """Solve ``(Σ_d E_d[x xᵀ] + λI) W = Σ_d E_d[x y_dᵀ]``; as there is no bias, the targets ``y_d`` sum to 0."""
    num_domains, hidden = states.means.shape
    covariance = states.moments.sum(0)
    damping = ridge * covariance.trace() / hidden * torch.eye(hidden, dtype=covariance.dtype)
    targets = torch.eye(num_domains, dtype=covariance.dtype) - 1 / num_domains
    return torch.linalg.solve(covariance + damping, states.means.T @ targets).T


def _logistic_row(
    kept: Float[Tensor, "kept hidden"], states: _States, caution: float, ridge: float
) -> Float[Tensor, " hidden"]:
    """The row that tells the last domain from the others, whose logits compete with the largest kept one."""
    hidden = kept.shape[-1]
    offsets = (states.sample @ kept.T).amax(dim=-1)  # (domain, token)
    domain_weights = torch.full((len(offsets), 1), caution, dtype=offsets.dtype, device=offsets.device)
    domain_weights[-1] = 1
    labels = torch.zeros_like(offsets)
    labels[-1] = 1
    damping = ridge * states.moments.sum(0).trace() / hidden
    row = torch.zeros(hidden, dtype=offsets.dtype, device=offsets.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([row], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(
            states.sample @ row - offsets, labels, domain_weights.expand_as(labels), reduction="sum"
        )
        value = entropy / labels.shape[1] + damping / 2 * row.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return row.detach()


def _scale(weight: Float[Tensor, "expert hidden"], states: _States) -> Float[Tensor, "expert hidden"]:
    """Scale the rows such that the domains of the sampled states are likeliest."""
    logits = states.sample @ weight.T  # (domain, token, expert)
    labels = torch.arange(len(logits), device=logits.device).repeat_interleave(logits.shape[1])
    unit = weight / logits.std()
    losses = [F.cross_entropy(scale * (states.sample @ unit.T).flatten(0, 1), labels).item() for scale in _SCALES]
    return (unit * _SCALES[losses.index(min(losses))]).float()
