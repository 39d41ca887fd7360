"""What training minimizes: a function of the network and a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.data import Batch
from moesaic.mixture import Mixture
from moesaic.moe import find_choices, load_balance_loss, record_routing, router_z_loss
from moesaic.tasks import linear_cross_entropy, next_token_loss
from moesaic.types import MixtureOutput, Routing

PLAIN_HEADS = frozenset(
    {
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "flex_olmo",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    }
)
"""Architectures of Transformers (``model_type``) whose logits are their output layer's product and nothing more.

A list rather than a test, since nothing in a model tells: others cap their logits (Gemma 2) or scale them (Granite,
Cohere) in the middle of ``forward``, and would be trained on another loss without a word. Whatever is not listed is
asked for its logits.
"""


@dataclass(frozen=True)
class Losses:
    """The sum that is minimized, and its terms before their coefficients."""

    total: Tensor
    parts: dict[str, Tensor]


Objective = Callable[[Any, Any], Losses]
"""Computes the losses of a network on a batch of the kind that the sampler gives."""


def language_modeling(network: nn.Module, batch: Batch) -> Losses:
    """The mean negative log-likelihood of the next token."""
    nats, _ = _read(network, batch)
    return Losses(nats, {"nats": nats})


def mixture_language_modeling(network: nn.Module, batch: Batch) -> Losses:
    """The language-model loss of a mixture of whole models, and what its combiner adds to it.

    What a combiner adapts rather than learns, such as a bias that balances loads, is adapted here, after each batch
    that is trained on. Mixtures among the members are treated alike.
    """
    with _record_mixtures(network) as mixtures:
        nats, _ = _read(network, batch)
    parts, total = {"nats": nats}, nats
    for mixture, routing in mixtures:
        penalty = mixture.combiner.penalty(routing)
        if penalty is not None:
            parts["router_penalty"] = parts.get("router_penalty", torch.zeros_like(penalty)) + penalty
            total = total + penalty
        if network.training:
            mixture.combiner.adapt(routing)
    return Losses(total, parts)


@contextmanager
def _record_mixtures(network: nn.Module) -> Iterator[list[tuple[Mixture, Routing]]]:
    """The mixtures that run meanwhile, those among the members included, each with its routing."""
    recorded: list[tuple[Mixture, Routing]] = []

    def record(mixture: nn.Module, _: Any, output: MixtureOutput) -> None:
        assert isinstance(mixture, Mixture) and output.routing is not None
        recorded.append((mixture, output.routing))

    hooks = [module.register_forward_hook(record) for module in network.modules() if isinstance(module, Mixture)]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _read(network: Any, batch: Batch, **arguments: Any) -> tuple[Tensor, Any]:
    """Have a network read a batch; returns the mean nats of the next token, and the output that they came with."""
    if not has_plain_head(network):
        output = network(input_ids=batch.input_ids, use_cache=False, **arguments)
        return next_token_loss(output.logits, batch.labels), output
    output = network.base_model(input_ids=batch.input_ids, use_cache=False, **arguments)
    head = network.get_output_embeddings()
    hidden_states = output.last_hidden_state.flatten(0, 1)  # (token, hidden)
    return linear_cross_entropy(hidden_states, head.weight, batch.labels.flatten(), bias=head.bias), output


def has_plain_head(network: Any, architectures: frozenset[str] = PLAIN_HEADS) -> bool:
    """Whether a network's logits are the product of its output layer, so that both may be called apart.

    Subclasses of Transformers' models, wrappers, adapted or quantized output layers and hooks are not taken apart:
    each may do something on the way to the logits.

    Args:
        network: A Transformers model.
        architectures: Those of which this is known (``model_type``).
    """
    model_type = getattr(getattr(network, "config", None), "model_type", None)
    transformers_own = type(network).__module__ == f"transformers.models.{model_type}.modeling_{model_type}"
    if model_type not in architectures or not transformers_own:
        return False
    head = network.get_output_embeddings()
    hooks = [hook for module in (network, head) for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    return type(head) is nn.Linear and not hooks


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
        nats, output = _read(network, batch, output_router_logits=True)
        top_k = network.config.num_experts_per_tok
        parts = {
            "nats": nats,
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


@dataclass(frozen=True)
class ChosenLanguageModeling:
    """The language-model loss of a sparse model with choices of its own (:func:`moesaic.moe.choose_by`).

    Each choice keeps its own balance: by a penalty, which is added here, or by what it adapts after each batch that is
    trained on, which is done here too.

    Attributes:
        router_z_loss_coef: Coefficient of the router z-loss.
    """

    router_z_loss_coef: float = 0.001

    def __call__(self, network: Any, batch: Batch) -> Losses:
        """Compute the losses; among the parts is the number of experts that a token used, the mean over layers."""
        with record_routing(network) as layers:
            nats, _ = _read(network, batch)
        penalties = []
        for choice, routing in zip(find_choices(network), layers, strict=True):
            penalty = choice.penalty(routing)
            penalties.append(nats.new_zeros(()) if penalty is None else penalty)
            if network.training:
                choice.adapt(routing)
        parts = {
            "nats": nats,
            "router_penalty": torch.stack(penalties).sum(),
            "router_z": router_z_loss([routing.router_logits for routing in layers]),
            "experts_used": torch.stack([routing.num_used.float().mean() for routing in layers]).mean(),
        }
        total = nats + parts["router_penalty"] + self.router_z_loss_coef * parts["router_z"]
        return Losses(total, parts)
