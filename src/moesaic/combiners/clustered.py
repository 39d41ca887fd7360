"""The weight of a member is how near the text so far is to the documents that the member was trained on (c-BTM)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.combiners.base import State, register
from moesaic.combiners.choices import lower_top_k, top_k_routing, with_mean
from moesaic.combiners.spaces import Space, check_space
from moesaic.combiners.text_router import TextRouter
from moesaic.data.clusters import Clusters
from moesaic.types import Routing


@register("clustered")
class Clustered(TextRouter):
    """Members weighted by the distance of the text so far to their clusters' centers, ``w_m ∝ exp(-d_m² / T)``.

    The clusters are those of named domains (:func:`moesaic.data.center_groups`) or found among documents
    (:func:`moesaic.data.find_clusters`), one a member. Nothing is trained but, if one likes, the temperature
    (:func:`moesaic.training.fit_combiner`), and the members themselves do not decide: what a member says is not needed
    to weigh it.

    Args:
        temperature: The T above, to begin with; near 0 the nearest member alone counts.
        top_k: Number of members used per token; ``None`` uses all.
        num_features: Features of the clusters' space.
        space: Where the members are summed; see :func:`moesaic.combiners.combine`.

    Raises:
        ValueError: If the temperature is not positive, or the space does not exist.

    Reference: Gururangan et al. (2023), section 2.3, https://arxiv.org/abs/2303.14177
    """

    token_places: Tensor
    centers: Tensor

    def __init__(
        self,
        temperature: float = 0.1,
        top_k: int | None = None,
        num_features: int = 100,
        space: Space = "probability",
    ) -> None:
        super().__init__()
        check_space(space)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        self.temperature = temperature
        self.top_k = top_k
        self.num_features = num_features
        self.space = space

    @classmethod
    def of(cls, clusters: Clusters, **arguments: Any) -> Clustered:
        """The combiner of members that were trained on clusters, one each, in their order.

        Args:
            clusters: The clusters.
            **arguments: Those of the class but ``num_features``.
        """
        vocab_size, num_features = clusters.token_places.shape
        combiner = cls(num_features=num_features, **arguments)
        combiner.attach(len(clusters.centers), vocab_size)
        combiner.token_places.copy_(torch.from_numpy(clusters.token_places))
        combiner.centers.copy_(torch.from_numpy(clusters.centers))
        return combiner

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Make room for the clusters; until they are there (:meth:`of`) all members count the same.

        Raises:
            ValueError: If ``top_k`` is more than the number of members.
        """
        super().attach(num_members, vocab_size)
        if self.top_k is not None and not 1 <= self.top_k <= num_members:
            raise ValueError(f"top_k must be from 1 to num_members ({num_members}), got {self.top_k}.")
        self.register_buffer("token_places", torch.zeros(vocab_size, self.num_features))
        self.register_buffer("centers", torch.zeros(num_members, self.num_features))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(self.temperature)))

    def read(
        self, input_ids: Int[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], state: State | None
    ) -> tuple[Routing, State]:
        """See :meth:`TextRouter.read`."""
        added = F.embedding(input_ids, self.token_places) * mask.unsqueeze(-1)  # (batch, position, feature)
        total = added.cumsum(dim=1)
        if state is not None:
            total = total + state["total"].unsqueeze(1)
        places = F.normalize(total.float(), dim=-1)
        distances = torch.cdist(places, self.centers).square()  # (batch, position, member)
        router_logits = -distances / self.log_temperature.exp()
        routing = Routing.dense(router_logits) if self.top_k is None else top_k_routing(router_logits, top_k=self.top_k)
        return routing, {"total": total[:, -1]}

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`."""
        self.num_members = len(members)
        self.top_k = None if self.top_k is None else lower_top_k(self.top_k, len(members))
        self.centers = self.centers[members]

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; the newcomer's center is the mean of the others until it is set."""
        super().extend()
        self.centers = with_mean(self.centers)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "num_features": self.num_features,
            "space": self.space,
        }
