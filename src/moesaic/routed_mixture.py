"""A mixture of experts over the input's features: a router reads what the members read, and chooses among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moesaic.combiners import Space, combine, top_k_routing
from moesaic.combiners.spaces import check_space
from moesaic.errors import IncompatibleMembersError
from moesaic.members import check_names
from moesaic.module_mixture import check_outputs, check_sizes, read_member, take_rows
from moesaic.types import Member, Routing


@dataclass(frozen=True)
class RoutedMixtureOutput:
    """What was combined, and why.

    Attributes:
        logits: The combined scores, or regression outputs.
        routing: Which members answered for each row, with what weights.
        chosen_logits: What each member that was asked said, in the order of ``routing.top_k_index``; a mixture
            without ``top_k`` asks all of them, in their own order.
    """

    logits: Float[Tensor, "batch output"]
    routing: Routing
    chosen_logits: Float[Tensor, "top_k batch output"]


class RoutedMixture(nn.Module):
    """Several classifiers, or several regressors, of which a router asks those that suit the input.

    ``y = Σ_m g_m(x) f_m(x)``, where ``g`` is the softmax of the router's scores. With ``top_k`` only the chosen members
    run, each on its own rows, so that the cost grows with ``top_k`` and not with the number of members. A mixture is
    itself a member: nested mixtures are a hierarchical mixture of experts, whose weights multiply along the branches.

    Args:
        members: The models; all read the same inputs, and have the same outputs in the same order.
        router: Maps what the members read to one score a member, ``(batch, member)``: a :class:`FeatureRouter`, any
            other module, or a fitted classifier (:class:`moesaic.members.EstimatorModule`).
        top_k: Number of members asked about each row; ``None`` asks all.
        normalize: Rescale the kept weights to sum to 1.
        space: Where the members are summed; see :func:`moesaic.combiners.combine`. Without it, ``probability`` for
            classes and ``logit`` for numbers.
        regression: The outputs are numbers, not class scores; they can be summed in ``logit`` space only.
        name: What the mixture is called where it is itself a member.

    Raises:
        ValueError: If there is no member, two have one name, ``top_k`` is not between 1 and the number of members, or
            the space does not fit the outputs.

    Example:
        >>> from moesaic.members import ModuleMember
        >>> left, right = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> for member, answer in ((left, -1.0), (right, 1.0)):
        ...     _ = nn.init.zeros_(member.weight), nn.init.constant_(member.bias, answer)
        >>> router = nn.Linear(1, 2)
        >>> router.load_state_dict({"weight": torch.tensor([[-1.0], [1.0]]), "bias": torch.zeros(2)})
        <All keys matched successfully>
        >>> members = [ModuleMember("left", left), ModuleMember("right", right)]
        >>> mixture = RoutedMixture(members, router, top_k=1, regression=True)
        >>> mixture(torch.tensor([[-3.0], [5.0]])).logits.tolist()
        [[-1.0], [1.0]]

    References: Jacobs et al. (1991), Adaptive mixtures of local experts, figure 1; Jordan and Jacobs (1994),
    Hierarchical mixtures of experts and the EM algorithm, section 2; Shazeer et al. (2017), section 2.1,
    https://arxiv.org/abs/1701.06538
    """

    def __init__(
        self,
        members: Sequence[Member],
        router: nn.Module,
        *,
        top_k: int | None = None,
        normalize: bool = True,
        space: Space | None = None,
        regression: bool = False,
        name: str = "mixture",
    ) -> None:
        super().__init__()
        self.member_names = [member.name for member in members]
        check_names(self.member_names)
        if top_k is not None and not 1 <= top_k <= len(members):
            raise ValueError(f"top_k must be from 1 to num_members ({len(members)}), got {top_k}.")
        self.name = name
        self.tokenizer = None
        self.top_k = top_k
        self.normalize = normalize
        self.space = _choose_space(space, regression)
        self.regression = regression
        self.members = nn.ModuleList([member.network for member in members])
        self.router = router

    @property
    def network(self) -> nn.Module:
        """The mixture itself: what makes it a member."""
        return self

    def forward(self, *inputs: Any) -> RoutedMixtureOutput:
        """Route every row, let the chosen members read their rows, and combine what they say.

        Args:
            inputs: What router and members read; the rows are the first axis of each (a tensor, an array, or texts).

        Raises:
            IncompatibleMembersError: If the router has not one score a member, or the members differ in their number
                of outputs.
            MemberError: If a member gives something that is not a number.
        """
        routing = self.route(*inputs)
        chosen_logits = self._ask(inputs, routing.top_k_index)
        logits = combine(chosen_logits.unsqueeze(2), routing.top_k_weights.unsqueeze(1), self.space).squeeze(1)
        return RoutedMixtureOutput(logits, routing, chosen_logits)

    def route(self, *inputs: Any) -> Routing:
        """Say which members are to be asked about each row, and ask none.

        Raises:
            IncompatibleMembersError: If the router has not one score a member.
        """
        router_logits = read_member(self.router, inputs)
        if router_logits.shape[-1] != len(self.members):
            raise IncompatibleMembersError(
                f"The router gives {router_logits.shape[-1]} scores, and there are {len(self.members)} members "
                f"({', '.join(self.member_names)}). Make it with one output a member."
            )
        if self.top_k is None:
            return Routing.dense(router_logits)
        return top_k_routing(router_logits, top_k=self.top_k, normalize=self.normalize)

    def _ask(
        self, inputs: tuple[Any, ...], top_k_index: Int[Tensor, "batch top_k"]
    ) -> Float[Tensor, "top_k batch output"]:
        """Have each member read the rows that were sent to it, and nothing else."""
        num_rows, num_slots = top_k_index.shape
        # A slot is one row at one of its members; sorted by member, the slots of each lie side by side.
        slots = top_k_index.flatten().argsort(stable=True)
        counts = top_k_index.flatten().bincount(minlength=len(self.members)).tolist()
        outputs: dict[str, Tensor] = {}
        for name, member, own in zip(self.member_names, self.members, slots.split(counts), strict=True):
            if not len(own):
                continue
            rows = own // num_slots
            output = read_member(member, inputs if len(rows) == num_rows else take_rows(inputs, rows))
            check_outputs(name, output, self.regression, rows)
            outputs[name] = output.float().to(slots.device)
        check_sizes({name: output.shape[-1] for name, output in outputs.items()})
        by_slot = torch.cat(list(outputs.values()))[slots.argsort()]
        return by_slot.unflatten(0, (num_rows, num_slots)).movedim(1, 0)

    def save_router(self, folder: str | Path) -> None:
        """Write how members are chosen as JSON, the router's parameters as safetensors; members are not saved.

        Raises:
            ValueError: If the router has no parameters to save, as a fitted estimator has none.
        """
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.router.state_dict().items()}
        if not tensors:
            raise ValueError(
                f"The router ({type(self.router).__name__}) has no parameters that can be saved, as a fitted "
                "estimator has none. Fit a FeatureRouter or another network instead."
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = {"members": self.member_names, **self._arguments()}
        (folder / "mixture.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, folder / "router.safetensors")

    @classmethod
    def load(cls, folder: str | Path, members: Sequence[Member], router: nn.Module) -> RoutedMixture:
        """Make a mixture with the router that :meth:`save_router` wrote.

        Args:
            folder: Where it was written.
            members: The members, by the names and in the order that they had.
            router: A router of the same shape; its parameters are replaced in place.

        Raises:
            IncompatibleMembersError: If the members are called otherwise.
        """
        described = json.loads((Path(folder) / "mixture.json").read_text(encoding="utf-8"))
        saved_names = described.pop("members")
        names = [member.name for member in members]
        if names != saved_names:
            raise IncompatibleMembersError(
                f"{folder}: the router was saved for the members {', '.join(saved_names)}, and was given "
                f"{', '.join(names)}. Give the same members in the same order."
            )
        router.load_state_dict(load_file(Path(folder) / "router.safetensors"))
        return cls(members, router, **described)

    def _arguments(self) -> dict[str, Any]:
        return {
            "top_k": self.top_k,
            "normalize": self.normalize,
            "space": self.space,
            "regression": self.regression,
            "name": self.name,
        }

    def __repr__(self) -> str:
        asked = "all" if self.top_k is None else self.top_k
        return f"RoutedMixture([{', '.join(self.member_names)}], {type(self.router).__name__}, top_k={asked})"


class FeatureRouter(nn.Module):
    """Scores members by the features of the input: a linear layer, or a perceptron with one hidden layer.

    Args:
        num_features: Number of features in a row; those that the encoder gives, if there is one.
        num_members: Number of members to score.
        hidden_size: Width of the hidden layer; ``None`` scores the features by a linear layer.
        encoder: Maps the inputs to features, ``(batch, feature)``. It stays as it is, in evaluation mode, and
            gradients stop at it. Without it the first input itself holds the features.
        seed: Makes the initial weights.

    Example:
        >>> FeatureRouter(num_features=4, num_members=3, hidden_size=8)(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        *,
        num_features: int,
        num_members: int,
        hidden_size: int | None = None,
        encoder: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.encoder = None if encoder is None else encoder.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.scores: nn.Module = (
                nn.Linear(num_features, num_members)
                if hidden_size is None
                else nn.Sequential(nn.Linear(num_features, hidden_size), nn.Tanh(), nn.Linear(hidden_size, num_members))
            )

    def forward(self, *inputs: Any) -> Float[Tensor, "batch member"]:
        """Score every member for every row.

        Raises:
            ValueError: If the rows have not the features that the router reads.
        """
        features = self._features(inputs)
        if features.dim() != 2 or features.shape[1] != self.num_features:
            raise ValueError(
                f"The router reads rows of {self.num_features} features, and was given a batch of shape "
                f"{tuple(features.shape)}. Give it those features, make it with another num_features, or give it an "
                "encoder."
            )
        return self.scores(features.float())

    def _features(self, inputs: tuple[Any, ...]) -> Tensor:
        if self.encoder is None:
            return torch.as_tensor(inputs[0])
        with torch.no_grad():
            return read_member(self.encoder, inputs)

    def train(self, mode: bool = True) -> FeatureRouter:
        """Set the mode of the scores; the encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self


def _choose_space(space: Space | None, regression: bool) -> Space:
    if space is None:
        return "logit" if regression else "probability"
    check_space(space)
    if regression and space != "logit":
        raise ValueError(
            f"A routed mixture in {space} space takes the outputs for class scores; those of a regression are numbers. "
            "Leave space out, or use space='logit'."
        )
    return space
