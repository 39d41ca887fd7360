"""Sparse models whose routers choose otherwise than by a fixed top k: how many experts a token uses is up to the input.

Transformers' own layers take as many experts for every token. Its experts, and ours, leave out a slot whose index is
the number of experts; so a router that lists all experts, and marks those not used that way, has each token use as many
as it likes. Such a model is saved under a type of its own, and loads where moesaic is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from moesaic.combiners import Choice, build_choice
from moesaic.combiners.choices import routing_of_all
from moesaic.errors import CheckpointError
from moesaic.experts import IMPLEMENTATION
from moesaic.types import Routing


class _ChosenRouter(nn.Module):
    """What both architectures' routers become: the same weight, and a choice behind it."""

    weight: nn.Parameter
    num_experts: int
    hidden_dim: int
    choice: Choice

    def forward(
        self, hidden_states: Float[Tensor, "*axes hidden"]
    ) -> tuple[Float[Tensor, "token expert"], Float[Tensor, "token slot"], Int[Tensor, "token slot"]]:
        """Score all experts and choose; as Transformers' routers, this returns scores, weights and experts."""
        features = hidden_states.reshape(-1, self.hidden_dim)
        routing = self.choice(F.linear(features, self.weight), features)
        is_unused = routing.top_k_weights == 0
        index = routing.top_k_index.masked_fill(is_unused, self.num_experts)
        return routing.router_logits, routing.top_k_weights.to(features.dtype), index


class ChosenMixtralRouter(_ChosenRouter, MixtralTopKRouter):
    """A router of Mixtral's, and a choice."""


class ChosenQwen3MoeRouter(_ChosenRouter, Qwen3MoeTopKRouter):
    """A router of Qwen3-MoE's, and a choice."""


@no_type_check  # Transformers makes the dataclass; its __init__ takes more than the fields
class ChosenMixtralConfig(MixtralConfig):
    """Mixtral's configuration, and how its routers choose.

    Attributes:
        router_choice: The choice's word under ``type``, and its arguments.
    """

    model_type = "moesaic_mixtral"
    router_choice: dict[str, Any] | None = None


@no_type_check
class ChosenQwen3MoeConfig(Qwen3MoeConfig):
    """Qwen3-MoE's configuration, and how its routers choose; see :class:`ChosenMixtralConfig`."""

    model_type = "moesaic_qwen3_moe"
    router_choice: dict[str, Any] | None = None


class ChosenMixtralForCausalLM(MixtralForCausalLM):
    """Mixtral with routers that choose in another way."""

    config_class = ChosenMixtralConfig

    def __init__(self, config: ChosenMixtralConfig) -> None:
        super().__init__(config)
        _put_choices(self, ChosenMixtralRouter)


class ChosenQwen3MoeForCausalLM(Qwen3MoeForCausalLM):
    """Qwen3-MoE with routers that choose in another way."""

    config_class = ChosenQwen3MoeConfig

    def __init__(self, config: ChosenQwen3MoeConfig) -> None:
        super().__init__(config)
        _put_choices(self, ChosenQwen3MoeRouter)


_CLASSES: dict[str, type[PreTrainedModel]] = {
    "mixtral": ChosenMixtralForCausalLM,
    "qwen3_moe": ChosenQwen3MoeForCausalLM,
    "moesaic_mixtral": ChosenMixtralForCausalLM,
    "moesaic_qwen3_moe": ChosenQwen3MoeForCausalLM,
}
"""From the type of a sparse model to the class of its like with a choice."""


def choose_by(network: PreTrainedModel, choice: Choice) -> PreTrainedModel:
    """The same sparse model, with routers that choose in another way; the tensors are shared, not copied.

    Train it with :class:`moesaic.training.ChosenLanguageModeling`, as :func:`moesaic.train` does, save it with
    ``save_pretrained``, and load it by ``AutoModelForCausalLM`` where moesaic is imported.

    Args:
        network: A model that :func:`assemble` wrote, or what this function returned.
        choice: How each layer's router chooses; every layer has its own copy.

    Raises:
        CheckpointError: If the model is none of the sparse architectures.
        ValueError: If the choice looks at later tokens, does not fit the number of experts, or lets routers learn
            nothing.

    Example:
        >>> from moesaic.combiners import TopP
        >>> from moesaic.testing import tiny_mixtral
        >>> network = choose_by(tiny_mixtral(), TopP(0.6))
        >>> with record_routing(network) as layers, torch.no_grad():
        ...     output = network(torch.arange(10).unsqueeze(0))
        >>> len(layers), layers[0].weights.shape
        (2, torch.Size([10, 4]))

    References: Huang et al. (2024), https://arxiv.org/abs/2403.07652; Wang et al. (2024), https://arxiv.org/abs/2412.14711
    """
    model_type = network.config.model_type
    if model_type not in _CLASSES:
        raise CheckpointError(
            f"Routers of a model of type {model_type!r} cannot be given another choice; those of "
            f"{', '.join(sorted(_CLASSES))} can."
        )
    if not choice.is_causal:
        raise ValueError(
            f"The choice {choice.word!r} lets experts pick among all tokens of a text, so that a token's experts "
            "depend on later tokens, which a model that predicts the next token cannot know. Use 'sigmoid', which "
            "balances the experts' loads and looks at one token, or 'top_k' or 'top_p'."
        )
    made_by = _CLASSES[model_type]
    values = {name: value for name, value in network.config.to_dict().items() if name != "model_type"}
    config = made_by.config_class(**values | {"router_choice": {"type": choice.word, **choice.arguments()}})
    config._attn_implementation = network.config._attn_implementation
    with torch.device("meta"):
        made = made_by(config)
    tensors = network.state_dict()
    # What belongs to the choice is new, and not in the network's state.
    for name, gate in _gates(made).items():
        own = _fresh(choice, gate)
        if reason := own.why_no_gradient("logit"):
            raise ValueError(reason)
        gate.choice = own
        tensors = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.choice.")}
        tensors |= {f"{name}.choice.{key}": value for key, value in own.state_dict().items()}
    made.load_state_dict(tensors, assign=True)
    _copy_buffers(network, made)
    made.tie_weights()
    made.generation_config = network.generation_config
    return made.train(network.training)


@contextmanager
def record_routing(network: nn.Module) -> Iterator[list[Routing]]:
    """The routing of every layer with a choice, first to last, of what the network reads meanwhile.

    Each has the axes ``(token, expert)``, all experts listed, those not used with weight 0.
    """
    layers: list[Routing] = []

    def record(gate: nn.Module, _: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        router_logits, weights, index = output
        # One column more than there are experts takes what was not used.
        spread = weights.new_zeros(len(weights), router_logits.shape[-1] + 1).scatter(-1, index, weights)
        layers.append(routing_of_all(spread[:, :-1], router_logits))

    hooks = [gate.register_forward_hook(record) for gate in _gates(network).values()]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def find_choices(network: nn.Module) -> list[Choice]:
    """The choice of every layer, first to last; none where routers take a fixed top k."""
    return [gate.choice for gate in _gates(network).values()]


def _gates(network: nn.Module) -> dict[str, _ChosenRouter]:
    return {name: module for name, module in network.named_modules() if isinstance(module, _ChosenRouter)}


def _put_choices(network: PreTrainedModel, router_class: type[_ChosenRouter]) -> None:
    """Turn the routers into ones with the choice that the configuration names."""
    # Our kernel leaves out what is not used; Transformers' grouped products do so in expert parallelism only.
    network.set_experts_implementation(IMPLEMENTATION)
    saved = network.config.router_choice
    for module in network.modules():
        gate = getattr(module, "gate", None)
        if isinstance(gate, (MixtralTopKRouter, Qwen3MoeTopKRouter)):
            gate.__class__ = router_class
            gate.choice = _fresh(build_choice(**saved), gate)


def _fresh(choice: Choice, gate: Any) -> Choice:
    """A copy of a choice for one layer."""
    own = build_choice(choice.word, **copy.deepcopy(choice.arguments()))
    own.attach(gate.num_experts, gate.hidden_dim)
    return own


def _copy_buffers(network: nn.Module, made: nn.Module) -> None:
    """Give over what is not part of the state, such as the frequencies of rotary positions."""
    for name, buffer in network.named_buffers():
        owner, _, key = name.rpartition(".")
        place = made.get_submodule(owner)
        if key in place._non_persistent_buffers_set:
            setattr(place, key, buffer)


for _base, _made in (("mixtral", ChosenMixtralForCausalLM), ("qwen3_moe", ChosenQwen3MoeForCausalLM)):
    _config: Any = _made.config_class
    AutoConfig.register(_config.model_type, _config)
    AutoModelForCausalLM.register(_config, _made)
    # On disk its tensors have the names of the architecture that it is of.
    register_checkpoint_conversion_mapping(_config.model_type, get_checkpoint_conversion_mapping(_base))
