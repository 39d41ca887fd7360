"""Tiny random models of the families whose experts layers differ."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 6,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 0,
}

FAMILIES = {
    "mixtral": {},
    "qwen3_moe": {},
    "olmoe": {},
    "flex_olmo": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 16},
    # Biases, transposed and interleaved weights, and a gate of its own.
    "gpt_oss": {
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    # No gate at all.
    "nemotron_h": {"hybrid_override_pattern": "E*", "layers_block_type": ["moe", "attention"], "n_routed_experts": 6},
}


def network_of(family):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(SIZES | FAMILIES[family])))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return network.eval()
