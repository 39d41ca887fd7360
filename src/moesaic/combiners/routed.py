"""The weights depend on the input: a mixture of experts whose experts are whole models."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.combiners.base import Combined, Combiner, State, register
from moesaic.combiners.spaces import Space, check_space, combine
from moesaic.types import Routing


def top_k_routing(router_logits: Float[Tensor, "*axes member"], *, top_k: int, normalize: bool = True) -> Routing:
    """Send each token to its ``top_k`` highest-scoring members.

    The weights are softmax(router_logits), kept for the chosen members and zero elsewhere.

    Args:
        router_logits: Unnormalized score of every member for every token.
        top_k: Number of members used per token.
        normalize: Rescale the kept weights to sum to 1 (Mixtral does, OLMoE does not). With ``top_k=1`` that weight is
            always 1, so the router learns nothing from the language-model loss: leave it off.

    Returns:
        The routing. Gradients reach the weights; the choice of members has none.

    Raises:
        ValueError: If ``top_k`` is not between 1 and the number of members.

    Example:
        >>> top_k_routing(torch.tensor([[2.0, 1.0, -1.0]]), top_k=2).weights
        tensor([[0.7311, 0.2689, 0.0000]])

    Reference: Shazeer et al. (2017), section 2.1, https://arxiv.org/abs/1701.06538
    """
    num_members = router_logits.shape[-1]
    if not 1 <= top_k <= num_members:
        raise ValueError(f"top_k must be from 1 to num_members ({num_members}), got {top_k}.")

    # float32, because bfloat16 turns close calls into ties.
    probabilities = router_logits.float().softmax(dim=-1)
    top_k_weights, top_k_index = probabilities.topk(top_k, dim=-1)  # both (..., top_k)
    if normalize:
        top_k_weights = top_k_weights / top_k_weights.sum(dim=-1, keepdim=True)
    return Routing(top_k_weights, top_k_index, router_logits)


@register("routed")
class Routed(Combiner):
    """A router reads the text so far and weighs the members anew at every token.

    The router is a linear layer over the mean of learned token embeddings of the prefix: cheap, causal, and
    independent of what the members are. With ``top_k=None`` every member is used (a dense mixture).

    Args:
        top_k: Number of members used per token; ``None`` uses all.
        normalize: Rescale the kept weights to sum to 1.
        space: Where the members are summed; see :func:`moesaic.combiners.combine`.
        router_width: Width of the router's token embeddings.
        seed: Makes the router's initial weights.

    Raises:
        ValueError: If ``top_k`` is 1 and the weights are rescaled, or the space does not exist.

    Reference: Jacobs et al. (1991), equation 1.3; Shazeer et al. (2017), section 2, https://arxiv.org/abs/1701.06538
    """

    embedding: nn.Embedding
    router: nn.Linear

    def __init__(
        self,
        top_k: int | None = None,
        normalize: bool = True,
        space: Space = "probability",
        router_width: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_space(space)
        if top_k == 1 and normalize:
            raise ValueError(
                "top_k=1 with normalize=True gives every chosen member the weight 1, so its router cannot learn from "
                "the language-model loss. Use normalize=False, or top_k=2 or more."
            )
        self.top_k = top_k
        self.normalize = normalize
        self.space = space
        self.router_width = router_width
        self.seed = seed

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Make the router.

        Raises:
            ValueError: If ``top_k`` is more than the number of members.
        """
        super().attach(num_members, vocab_size)
        if self.top_k is not None and not 1 <= self.top_k <= num_members:
            raise ValueError(f"top_k must be from 1 to num_members ({num_members}), got {self.top_k}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.embedding = nn.Embedding(vocab_size, self.router_width)
            self.router = nn.Linear(self.router_width, num_members)

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`."""
        embedded = self.embedding(input_ids) * mask.unsqueeze(-1)  # (batch, position, width)
        total, count = embedded.cumsum(dim=1), mask.cumsum(dim=1)
        if state is not None:
            total, count = total + state["total"].unsqueeze(1), count + state["count"].unsqueeze(1)
        router_logits = self.router(total / count.clamp_min(1).unsqueeze(-1))
        routing = (
            Routing.dense(router_logits)
            if self.top_k is None
            else top_k_routing(router_logits, top_k=self.top_k, normalize=self.normalize)
        )
        logits = combine(member_logits, routing.weights, self.space)
        return Combined(logits, routing, {"total": total[:, -1], "count": count[:, -1]})

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`; ``top_k`` is lowered, with a warning, where fewer members are left."""
        weight, bias = self.router.weight.detach(), self.router.bias.detach()
        self.num_members = len(members)
        self._set_router(weight[members], bias[members])
        if self.top_k is not None and self.top_k > len(members):
            warnings.warn(
                f"top_k is lowered from {self.top_k} to {len(members)}, the number of members that are left.",
                stacklevel=2,
            )
            # One member of one is no choice; None says so, and is allowed together with normalize.
            self.top_k = len(members) if len(members) > 1 else None

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; the new member's score is the mean of the others' scores."""
        super().extend()
        weight, bias = self.router.weight.detach(), self.router.bias.detach()
        mean_weight, mean_bias = weight.mean(dim=0, keepdim=True), bias.mean(dim=0, keepdim=True)
        self._set_router(torch.cat([weight, mean_weight]), torch.cat([bias, mean_bias]))

    def _set_router(self, weight: Float[Tensor, "member width"], bias: Float[Tensor, " member"]) -> None:
        self.router.out_features = len(weight)
        self.router.weight, self.router.bias = nn.Parameter(weight), nn.Parameter(bias)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {
            "top_k": self.top_k,
            "normalize": self.normalize,
            "space": self.space,
            "router_width": self.router_width,
            "seed": self.seed,
        }
