"""What every choice is: it turns a router's scores into a routing, and says when a router behind it cannot learn."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, distributed, nn

from moesaic.combiners.spaces import Space
from moesaic.combiners.words import Words
from moesaic.types import Routing

CHOICES: Words[Choice] = Words("choice")
"""Registered word of every choice, as recipes and saved mixtures spell it."""


class Choice(nn.Module, ABC):
    """Decides from a router's scores which members are used, and with what weight.

    A choice is made with plain arguments, then told by :meth:`attach` how many members there are. Some learn, or are
    adapted after every optimizer step: what they need for that is in the routings that they gave.
    """

    word: ClassVar[str]
    is_causal: ClassVar[bool] = True
    """Whether a token's routing depends on that token's scores alone; else it looks at later tokens too."""
    weights_sum_to_one: bool = True
    """Whether the weights of each token sum to 1."""
    num_members: int | None = None

    @abstractmethod
    def forward(
        self, router_logits: Float[Tensor, "*axes member"], features: Float[Tensor, "*axes feature"]
    ) -> Routing:
        """Choose.

        Args:
            router_logits: Unnormalized score of every member for every token.
            features: What the router read to give these scores.
        """

    def attach(self, num_members: int, num_features: int) -> None:
        """Make what depends on the members and on what the router reads.

        Raises:
            ValueError: If the arguments do not fit that many members.
        """
        self.num_members = num_members

    def why_no_gradient(self, space: Space) -> str | None:
        """Why the language-model loss cannot teach a router behind this choice, and what to do; ``None`` if it can.

        Args:
            space: Where the members are summed; see :func:`moesaic.combiners.combine`.
        """
        return None

    def penalty(self, routing: Routing) -> Float[Tensor, ""] | None:
        """What training adds to the loss for a routing that this choice gave; ``None`` if it adds nothing."""
        return None

    def adapt(self, routing: Routing) -> None:
        """Change what no gradient changes, after an optimizer step.

        Args:
            routing: That of the step's tokens; where several processes train together, each gives its own.
        """
        return

    def select(self, members: list[int]) -> None:
        """Keep only these members, in this order."""
        self.num_members = len(members)

    def extend(self) -> None:
        """Make room for one member more, after the others; what belongs to each member is the others' mean for it."""
        assert self.num_members is not None, "extend comes after attach"
        self.num_members += 1

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values: what a saved mixture needs to make this choice again."""

    def extra_repr(self) -> str:
        """Show the arguments when printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())


register_choice = CHOICES.register
"""Makes a choice known by a word, in recipes and in saved mixtures; see :meth:`Words.register`."""

build_choice = CHOICES.build
"""Makes the choice that a recipe or a saved mixture names; see :meth:`Words.build`."""


def routing_of_all(weights: Float[Tensor, "*axes member"], router_logits: Float[Tensor, "*axes member"]) -> Routing:
    """The routing where each token uses as many members as it likes: all are listed, those not used with weight 0."""
    index = torch.arange(weights.shape[-1], device=weights.device).expand(weights.shape)
    return Routing(weights, index, router_logits)


def member_loads(routing: Routing, mask: Bool[Tensor, "*axes"] | None = None) -> Float[Tensor, " member"]:
    """Number of tokens that use each member, over all data-parallel processes.

    Args:
        routing: Who was used; a weight of 0 is no use.
        mask: False for tokens that do not count, such as padding; all count if not given.

    Example:
        >>> weights, index = torch.tensor([[0.7, 0.3], [1.0, 0.0]]), torch.tensor([[2, 0], [2, 1]])
        >>> member_loads(Routing(weights, index, torch.zeros(2, 3)))
        tensor([1., 0., 2.])
    """
    is_used = routing.weights > 0
    if mask is not None:
        is_used = is_used & mask.unsqueeze(-1)
    loads = is_used.flatten(0, -2).sum(dim=0).float()
    if distributed.is_initialized():
        distributed.all_reduce(loads)
    return loads


def with_mean(values: Float[Tensor, member * axes]) -> Float[Tensor, larger * axes]:
    """The values of every member, and their mean for one that is new."""
    return torch.cat([values, values.mean(dim=0, keepdim=True)])


def lower_top_k(top_k: int, num_members: int) -> int:
    """What is left of ``top_k`` where there are fewer members, with a warning where that is less."""
    if top_k > num_members:
        warnings.warn(
            f"top_k is lowered from {top_k} to {num_members}, the number of members that are left.", stacklevel=3
        )
    return min(top_k, num_members)


def check_top_k(top_k: int, num_members: int) -> None:
    """Refuse to use no member, or more than there are.

    Raises:
        ValueError: If ``top_k`` is not between 1 and the number of members.
    """
    if not 1 <= top_k <= num_members:
        raise ValueError(f"top_k must be from 1 to num_members ({num_members}), got {top_k}.")
