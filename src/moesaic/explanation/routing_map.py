"""Where each domain's tokens go: the share of every expert in every layer, and how sure the routers are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from moesaic.data import NOT_SCORED, EvaluationBlocks
from moesaic.moe import num_experts, watch_routing
from moesaic.types import Routing

DEAD_SHARE = 0.01
"""An expert that gets less than this share of the weight in a layer is as good as dead there."""


@dataclass(frozen=True)
class RoutingMap:
    """What the routers of a sparse mixture do with text of each domain.

    Attributes:
        domains: The domains.
        experts: The experts, in the order of the last axis.
        weight: Share of the routing weight that each expert gets, ``[layer][domain][expert]``; rows sum to 1.
        first_choice: Share of the tokens whose highest-weighted expert it is, ``[layer][domain][expert]``.
        entropy: Mean entropy of the router's distribution, from 0 (always sure) to 1 (undecided), ``[layer][domain]``.
    """

    domains: list[str]
    experts: list[str]
    weight: list[list[list[float]]]
    first_choice: list[list[list[float]]]
    entropy: list[list[float]]

    @property
    def load(self) -> list[list[float]]:
        """Share of the weight that each expert gets over all domains, ``[layer][expert]``."""
        return torch.tensor(self.weight).mean(dim=1).tolist()

    def warnings(self) -> list[str]:
        """Sentences about experts that get next to nothing, and what to do."""
        return [
            f"Layer {layer}: expert {name} gets {share:.1%} of the weight, as good as nothing. Raise "
            "joint.router_aux_loss_coef, or train the router longer."
            for layer, shares in enumerate(self.load)
            for name, share in zip(self.experts, shares, strict=True)
            if share < DEAD_SHARE
        ]

    def to_json(self) -> dict[str, Any]:
        """The map as JSON values."""
        return asdict(self) | {"load": self.load}


@torch.no_grad()
def map_routing(
    network: Any, blocks: Mapping[str, EvaluationBlocks], experts: list[str], *, batch_size: int
) -> RoutingMap:
    """Watch the routers of a sparse model read documents of each domain.

    Args:
        network: A model that :func:`moesaic.assemble` made.
        blocks: Documents of every domain.
        experts: The experts' names.
        batch_size: Windows read at once.
    """
    per_domain = [_watch(network, documents, batch_size) for documents in blocks.values()]
    weight, first_choice, entropy = (torch.stack(values, dim=1) for values in zip(*per_domain, strict=True))
    return RoutingMap(list(blocks), experts, weight.tolist(), first_choice.tolist(), entropy.tolist())


def _watch(
    network: Any, documents: EvaluationBlocks, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean weight and first choice, ``(layer, expert)``, and mean entropy, ``(layer,)``, over a domain's tokens."""
    count = num_experts(network.config)
    sums: list[torch.Tensor] = []
    num_tokens = 0
    for start in range(0, len(documents.input_ids), batch_size):
        rows = slice(start, start + batch_size)
        real = (documents.labels[rows] != NOT_SCORED).flatten()
        routing = _rows(watch_routing(network, documents.input_ids[rows].to(network.device)), real)
        probabilities = routing.probabilities
        entropy = -(probabilities * probabilities.clamp_min(1e-20).log()).sum(-1) / math.log(count)
        top = torch.nn.functional.one_hot(routing.weights.argmax(-1), count)
        part = [routing.weights.sum(1).cpu(), top.sum(1).cpu(), entropy.sum(1).cpu()]
        sums = [total + new for total, new in zip(sums, part, strict=True)] if sums else part
        num_tokens += int(real.sum())
    weight, first_choice, entropy = (total.double() / num_tokens for total in sums)
    return weight, first_choice, entropy


def _rows(routing: Routing, kept: torch.Tensor) -> Routing:
    """The routing of some tokens, in every layer."""
    kept = kept.to(routing.router_logits.device)
    return Routing(routing.top_k_weights[:, kept], routing.top_k_index[:, kept], routing.router_logits[:, kept])
