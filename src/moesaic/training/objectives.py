"""What training minimizes: a function of the network and a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.data import Batch
from moesaic.moe import load_balance_loss, router_z_loss
from moesaic.tasks import next_token_loss


@dataclass(frozen=True)
class Losses:
    """The sum that is minimized, and its terms before their coefficients."""

    total: Tensor
    parts: dict[str, Tensor]


Objective = Callable[[Any, Batch], Losses]
"""Computes the losses of a network on a batch."""


def language_modeling(network: nn.Module, batch: Batch) -> Losses:
    """The mean negative log-likelihood of the next token."""
    logits = network(input_ids=batch.input_ids, use_cache=False).logits
    nats = next_token_loss(logits, batch.labels)
    return Losses(nats, {"nats": nats})


@dataclass(frozen=True)
class SparseLanguageModeling:
    """The language-model loss of a sparse mixture, and what keeps its routers healthy.

    Attributes:
        router_aux_loss_coef: Coefficient of the load-balance loss, taken per layer over the whole batch.
        router_z_loss_coef: Coefficient of the router z-loss.
        router_domain_loss_coef: Coefficient of the cross-entropy between each layer's router and the domain that the
            sequence came from: supervision by labels, for experts that stand in the order of the domains.

    References: Fedus et al. (2021), equation 4, https://arxiv.org/abs/2101.03961; Zoph et al. (2022), equation 5,
    https://arxiv.org/abs/2202.08906
    """

    router_aux_loss_coef: float = 0.01
    router_z_loss_coef: float = 0.001
    router_domain_loss_coef: float = 0.0

    def __call__(self, network: Any, batch: Batch) -> Losses:
        """Compute the losses of a Transformers mixture-of-experts model."""
        output = network(input_ids=batch.input_ids, use_cache=False, output_router_logits=True)
        top_k = network.config.num_experts_per_tok
        parts = {
            "nats": next_token_loss(output.logits, batch.labels),
            "load_balance": load_balance_loss(output.router_logits, top_k=top_k),
            "router_z": router_z_loss(output.router_logits),
        }
        total = (
            parts["nats"]
            + self.router_aux_loss_coef * parts["load_balance"]
            + self.router_z_loss_coef * parts["router_z"]
        )
        if self.router_domain_loss_coef:
            domains = batch.domain_index.repeat_interleave(batch.input_ids.shape[1])
            layers = [F.cross_entropy(logits.float(), domains) for logits in output.router_logits]
            parts["router_domain"] = sum(layers[1:], start=layers[0]) / len(layers)
            total = total + self.router_domain_loss_coef * parts["router_domain"]
        return Losses(total, parts)
