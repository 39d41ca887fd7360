"""What a sparse model's routers did, as a routing record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moesaic.combiners import top_k_routing
from moesaic.moe.chosen import find_choices, record_routing
from moesaic.types import Routing


def read_routing(router_logits: Sequence[Float[Tensor, "token expert"]], config: Any) -> Routing:
    """The routing of every layer, from what a Transformers model returns with ``output_router_logits=True``.

    Args:
        router_logits: One tensor a layer.
        config: The model's configuration, which says how many experts are used and whether their weights are rescaled.

    Returns:
        The routing, with the leading axes ``(layer, token)``.
    """
    normalize = getattr(config, "norm_topk_prob", True)  # Mixtral has no such switch: it always rescales
    return top_k_routing(torch.stack(tuple(router_logits)), top_k=config.num_experts_per_tok, normalize=normalize)


def watch_routing(network: Any, input_ids: Int[Tensor, "batch position"]) -> Routing:
    """Have a sparse model read text, and see what its routers do; however they choose.

    Args:
        network: A model that :func:`assemble` made, or :func:`choose_by`.
        input_ids: The text.

    Returns:
        The routing, with the leading axes ``(layer, token)``.
    """
    if not find_choices(network):
        output = network(input_ids=input_ids, use_cache=False, output_router_logits=True)
        return read_routing(output.router_logits, network.config)
    with record_routing(network) as layers:
        network(input_ids=input_ids, use_cache=False)
    parts = ([getattr(layer, name) for layer in layers] for name in ("top_k_weights", "top_k_index", "router_logits"))
    return Routing(*(torch.stack(part) for part in parts))
