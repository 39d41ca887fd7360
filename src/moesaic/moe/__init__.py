"""Members meet at hidden states: dense checkpoints assembled into a sparse one, its routers and their losses."""

from moesaic.moe.assemble import assemble, read_router, save_model, write_router
from moesaic.moe.balance import load_balance_loss, router_entropy, router_z_loss
from moesaic.moe.chosen import choose_by, find_choices, record_routing
from moesaic.moe.compatibility import check_compatible, check_complete, find_differences
from moesaic.moe.families import expert_names, family_of, is_sparse, num_experts, sparse_config
from moesaic.moe.membership import RouterChange, add_expert, remove_expert, replace_expert
from moesaic.moe.router_init import RouterMethod, extend_router, find_gates, initialize_router
from moesaic.moe.routing import read_routing, watch_routing

__all__ = [
    "RouterChange",
    "RouterMethod",
    "add_expert",
    "assemble",
    "check_compatible",
    "check_complete",
    "choose_by",
    "expert_names",
    "extend_router",
    "family_of",
    "find_choices",
    "find_differences",
    "find_gates",
    "initialize_router",
    "is_sparse",
    "load_balance_loss",
    "num_experts",
    "read_router",
    "read_routing",
    "record_routing",
    "remove_expert",
    "replace_expert",
    "router_entropy",
    "router_z_loss",
    "save_model",
    "sparse_config",
    "watch_routing",
    "write_router",
]
