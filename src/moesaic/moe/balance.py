"""Losses that keep routers healthy, taken layer by layer over the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, distributed


def load_balance_loss(router_logits: Sequence[Float[Tensor, "token expert"]], *, top_k: int) -> Float[Tensor, ""]:
    """How unevenly tokens are sent to experts: 1 where all experts get the same share, more where they do not.

    For each layer ``N Σ_i f_i p_i``, where ``f_i`` is the share of the assignments that go to expert ``i`` and ``p_i``
    the mean probability that the router gives it; then the mean over layers. Transformers pools the layers first, which
    hides a layer that collapsed. ``f`` is counted over all data-parallel processes, so that the mean of this loss over
    processes is the loss of the whole batch: a small part of it may well be all of one domain.

    Args:
        router_logits: One tensor a layer.
        top_k: Number of experts used per token.

    References: Fedus et al. (2021), equations 4-6, https://arxiv.org/abs/2101.03961; Qiu et al. (2025), section 3,
    https://arxiv.org/abs/2501.11873
    """
    losses = []
    for logits in router_logits:
        num_experts = logits.shape[-1]
        probabilities = logits.float().softmax(dim=-1)
        counts = torch.zeros(num_experts, device=logits.device)
        chosen = probabilities.topk(top_k, dim=-1).indices.flatten()
        counts.index_add_(0, chosen, torch.ones_like(chosen, dtype=counts.dtype))
        if distributed.is_initialized():
            distributed.all_reduce(counts)
        shares = counts / counts.sum()
        losses.append(num_experts * (shares * probabilities.mean(dim=0)).sum())
    return torch.stack(losses).mean()


def router_z_loss(router_logits: Sequence[Float[Tensor, "token expert"]]) -> Float[Tensor, ""]:
    """Mean squared log-sum-exp of the router logits: keeps them small, where softmax is precise.

    Args:
        router_logits: One tensor a layer.

    Reference: Zoph et al. (2022), equation 5, https://arxiv.org/abs/2202.08906
    """
    return torch.stack([logits.float().logsumexp(dim=-1).square().mean() for logits in router_logits]).mean()


def router_entropy(router_logits: Sequence[Float[Tensor, "token expert"]]) -> Float[Tensor, ""]:
    """Mean entropy of the router's distribution for a token, in nats: 0 where it is sure, ``log N`` where it is not.

    Args:
        router_logits: One tensor a layer.
    """
    entropies = []
    for logits in router_logits:
        log_probabilities = logits.float().log_softmax(dim=-1)
        entropies.append(-(log_probabilities.exp() * log_probabilities).sum(dim=-1).mean())
    return torch.stack(entropies).mean()
