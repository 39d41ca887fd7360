"""Members that are sure of the next token count more."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.spaces import Space, check_space, combine
from moesaic.types import Routing


@register("entropy")
class Entropy(Combiner):
    """Weights that fall with the entropy of a member's prediction: ``w_m = softmax_m(-H(p_m) / temperature)``.

    The simplest stacker that looks at its input: one parameter. Sureness is not knowledge, though: a member that is
    overconfident outside its domain draws weight where it should not, so scale the members' temperatures first
    (:class:`Tempered`).

    Args:
        temperature: Entropy in nats that divides a member's odds by e. Large values give the plain average; training
            moves it.
        space: Where the mean is taken; see :func:`moesaic.combiners.combine`.

    Raises:
        ValueError: If the temperature is not positive, or the space does not exist.
    """

    reads_every_position = False
    reads_tokens = False

    def __init__(self, temperature: float = 1.0, space: Space = "probability") -> None:
        super().__init__()
        check_space(space)
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.space = space
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
        observed: Float[Tensor, "batch position member"] | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        entropies = self.observe(member_logits, input_ids, mask) if observed is None else observed
        routing = Routing.dense(-entropies * self.log_temperature.neg().exp())
        return Combined(combine(member_logits, routing.weights, self.space), routing)

    def observe(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
    ) -> Float[Tensor, "batch position member"]:
        """The entropy of every member's prediction; see :meth:`Combiner.observe`."""
        return entropy(member_logits.float().log_softmax(dim=-1)).movedim(0, -1)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {"temperature": float(self.log_temperature.detach().exp()), "space": self.space}


def entropy(log_probabilities: Float[Tensor, "*axes vocab"]) -> Float[Tensor, "*axes"]:
    """Entropy of distributions, in nats; outcomes of probability 0 add nothing.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log())
        tensor([0.6931, -0.0000])
    """
    return -(log_probabilities.exp() * log_probabilities.clamp_min(torch.finfo(torch.float32).min)).sum(dim=-1)
