"""What a model costs: parameters in all, and those that work on a token."""

from __future__ import annotations

from typing import Any

from torch import nn

from moesaic.mixture import Mixture
from moesaic.moe import is_sparse, num_experts


def total_parameters(network: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def active_parameters(network: nn.Module) -> int:
    """Number of parameters that take part in the prediction of one token.

    In a sparse model these are all but the experts that a token is not sent to; in a mixture of whole models, all
    members.
    """
    if isinstance(network, Mixture):
        combiner = sum(parameter.numel() for parameter in network.combiner.parameters())
        return combiner + sum(active_parameters(member) for member in network.members)
    config: Any = getattr(network, "config", None)
    if not is_sparse(config):
        return total_parameters(network)
    expert_parameters = sum(parameter.numel() for name, parameter in network.named_parameters() if ".experts." in name)
    unused = expert_parameters * (num_experts(config) - config.num_experts_per_tok) // num_experts(config)
    return total_parameters(network) - unused
