"""What a model costs: parameters in all, and those that work on a token."""

from __future__ import annotations

from typing import Any

from torch import nn

from moesaic.members import AdaptedLM
from moesaic.mixture import Mixture
from moesaic.moe import is_sparse, num_experts


def total_parameters(network: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def active_parameters(network: nn.Module) -> int:
    """Number of parameters that take part in the prediction of one token.

    In a sparse model these are all but the experts that a token is not sent to; in a mixture of whole models, all
    members; of a backbone's adapters, only the one that it reads with.
    """
    if isinstance(network, AdaptedLM):
        return network.num_active_parameters
    if isinstance(network, Mixture):
        combiner = sum(parameter.numel() for parameter in network.combiner.parameters())
        return combiner + sum(active_parameters(member) for member in network.members)
    config: Any = getattr(network, "config", None)
    if not is_sparse(config):
        return total_parameters(network)
    expert_parameters = sum(parameter.numel() for name, parameter in network.named_parameters() if ".experts." in name)
    unused = expert_parameters * (num_experts(config) - config.num_experts_per_tok) // num_experts(config)
    return total_parameters(network) - unused


def training_flops(active_parameters: int, num_tokens: int) -> float:
    """Floating-point operations of training: 2 for each active parameter and token forward, 4 backward.

    Attention to earlier tokens is left out; it is little as long as the context is shorter than the model is wide.

    Args:
        active_parameters: Parameters that work on a token.
        num_tokens: Tokens that were trained on.

    Example:
        >>> training_flops(1_000_000, 10_000)
        60000000000.0

    Reference: Kaplan et al. (2020), section 2.1, https://arxiv.org/abs/2001.08361
    """
    return 6.0 * active_parameters * num_tokens


def inference_flops_per_token(active_parameters: int) -> float:
    """Floating-point operations of reading one token: 2 for each active parameter.

    Reference: Kaplan et al. (2020), section 2.1, https://arxiv.org/abs/2001.08361
    """
    return 2.0 * active_parameters
