"""From a router's scores to a routing: one way a file, each a word that recipes know."""

from moesaic.combiners.choices.base import (
    CHOICES,
    Choice,
    build_choice,
    lower_top_k,
    member_loads,
    register_choice,
    routing_of_all,
    with_mean,
)
from moesaic.combiners.choices.expert_choice import ExpertChoice, expert_choice_routing
from moesaic.combiners.choices.hard import Hard, gumbel_logits, hard_routing
from moesaic.combiners.choices.noisy_top_k import NoisyTopK, noisy_logits
from moesaic.combiners.choices.relu import ReLU, adapt_sparsity_coef, relu_routing
from moesaic.combiners.choices.sigmoid import Sigmoid, balance_bias, sigmoid_routing
from moesaic.combiners.choices.softmax import Softmax
from moesaic.combiners.choices.top_k import TopK, top_k_routing
from moesaic.combiners.choices.top_p import TopP, top_p_routing

__all__ = [
    "CHOICES",
    "Choice",
    "ExpertChoice",
    "Hard",
    "NoisyTopK",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "TopK",
    "TopP",
    "adapt_sparsity_coef",
    "balance_bias",
    "build_choice",
    "expert_choice_routing",
    "gumbel_logits",
    "hard_routing",
    "lower_top_k",
    "member_loads",
    "noisy_logits",
    "register_choice",
    "relu_routing",
    "routing_of_all",
    "sigmoid_routing",
    "top_k_routing",
    "top_p_routing",
    "with_mean",
]
