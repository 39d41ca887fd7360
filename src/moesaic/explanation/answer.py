"""Continue a text, and say which experts wrote the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moesaic.experts import fast_decoding
from moesaic.members import load_member
from moesaic.mixture import Mixture
from moesaic.moe import expert_names, is_sparse, watch_routing
from moesaic.types import Routing


@dataclass(frozen=True)
class Answer:
    """A continuation.

    Attributes:
        prompt: What was continued.
        text: The continuation.
        shares: Weight that each expert or member had in writing it, by name; empty for a dense model.
    """

    prompt: str
    text: str
    shares: dict[str, float]

    def __str__(self) -> str:
        if not self.shares:
            return self.prompt + self.text
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])
        return f"{self.prompt}{self.text}\n\nwritten by " + ", ".join(f"{name} {share:.0%}" for name, share in ranked)


@torch.no_grad()
def generate(
    model: str | Path, prompt: str, *, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0
) -> Answer:
    """Continue a text with a checkpoint or a finished run's model.

    Args:
        model: Folder of a run, or of a checkpoint.
        prompt: The text to continue.
        max_new_tokens: Number of tokens to add at most.
        temperature: 0 always takes the likeliest token.
        seed: Makes the random choices.

    Returns:
        The continuation, and the weight of each expert in it.

    Raises:
        CheckpointError: If there is no whole checkpoint.
        ValueError: If the checkpoint has no tokenizer, or the prompt is empty.
    """
    member = load_member(model)
    if member.tokenizer is None:
        raise ValueError(f"{model}: there is no tokenizer, so text cannot be read.")
    inputs = member.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    if inputs["input_ids"].shape[1] == 0:
        raise ValueError("The prompt is empty; give at least one character.")
    torch.manual_seed(seed)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with fast_decoding(member.network):
        tokens = member.network.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            pad_token_id=member.tokenizer.pad_token_id,
            **sampling,
        )
    num_prompt_tokens = inputs["input_ids"].shape[1]
    text = member.tokenizer.decode(tokens[0, num_prompt_tokens:], skip_special_tokens=True)
    return Answer(prompt, text, _shares(member.network, tokens, num_prompt_tokens))


def _shares(network: Any, tokens: torch.Tensor, num_prompt_tokens: int) -> dict[str, float]:
    """Mean weight of each expert where the new tokens were predicted, over tokens and layers."""
    if isinstance(network, Mixture):
        weights = network(tokens).routing.weights[0, num_prompt_tokens - 1 : -1]
        return dict(zip(network.member_names, weights.mean(0).tolist(), strict=True))
    if not is_sparse(network.config):
        return {}
    routing: Routing = watch_routing(network, tokens)
    weights = routing.weights[:, num_prompt_tokens - 1 : -1].mean(dim=(0, 1))
    return dict(zip(expert_names(network.config), weights.tolist(), strict=True))
