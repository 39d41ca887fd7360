"""A mixture of any classifiers or regressors: the same formula as :class:`moesaic.Mixture`, at one position."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moesaic.combiners import Combiner, Tempered, build_combiner
from moesaic.errors import IncompatibleMembersError, MemberError
from moesaic.members import ModuleMember, check_names, position_of, positions_without
from moesaic.types import Member, Routing


@dataclass(frozen=True)
class ModuleMixtureOutput:
    """What was combined, and why.

    Attributes:
        logits: The combined scores, or regression outputs.
        routing: Who was combined, with what weights; one leading axis, the batch.
        member_logits: What each member said.
    """

    logits: Float[Tensor, "batch output"]
    routing: Routing
    member_logits: Float[Tensor, "member batch output"]


def combine_outputs(combiner: Combiner, member_logits: Float[Tensor, "member batch output"]) -> ModuleMixtureOutput:
    """Combine what classifiers have said: they need not be run again for each combiner.

    Args:
        combiner: How; one that is not attached yet is made for these members.
        member_logits: What each member said.

    Example:
        >>> from moesaic.combiners import Average
        >>> combine_outputs(Average("logit"), torch.tensor([[[4.0, 2.0]], [[0.0, 0.0]]])).logits.tolist()
        [[2.0, 1.0]]
    """
    if combiner.num_members is None:
        combiner.attach(len(member_logits), member_logits.shape[-1])
    positions = torch.zeros(member_logits.shape[1], 1, dtype=torch.long, device=member_logits.device)
    combined = combiner(member_logits.unsqueeze(2), positions, torch.ones_like(positions, dtype=torch.bool))
    routing = combined.routing
    at_one_position = Routing(
        routing.top_k_weights.squeeze(1), routing.top_k_index.squeeze(1), routing.router_logits.squeeze(1)
    )
    return ModuleMixtureOutput(combined.logits.squeeze(1), at_one_position, member_logits)


class ModuleMixture(nn.Module):
    """Several classifiers, or several regressors, that answer as one.

    To a combiner a classifier is a language model of one position whose vocabulary are the classes. Only combiners that
    look at scores alone can serve: there is no text so far to learn from.

    Args:
        members: The models; all read the same inputs, and have the same outputs in the same order.
        combiner: How their outputs become one.
        regression: The outputs are numbers, not class scores; they can be combined in ``logit`` space only.
        name: What the mixture is called where it is itself a member.

    Raises:
        ValueError: If there is no member, two have one name, or the combiner cannot serve.

    Example:
        >>> from moesaic.combiners import Average
        >>> from moesaic.members import ModuleMember
        >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> _ = nn.init.eye_(first.weight), nn.init.zeros_(first.bias)
        >>> _ = nn.init.zeros_(second.weight), nn.init.zeros_(second.bias)
        >>> mixture = ModuleMixture([ModuleMember("eye", first), ModuleMember("zero", second)], Average("logit"))
        >>> mixture(torch.tensor([[4.0, 2.0]])).logits.tolist()
        [[2.0, 1.0]]
    """

    def __init__(
        self, members: Sequence[Member], combiner: Combiner, *, regression: bool = False, name: str = "mixture"
    ) -> None:
        super().__init__()
        self.member_names = [member.name for member in members]
        check_names(self.member_names)
        _check_combiner(combiner, regression)
        self.name = name
        self.tokenizer = None
        self.regression = regression
        self.members = nn.ModuleList([member.network for member in members])
        self.combiner = combiner

    @property
    def network(self) -> nn.Module:
        """The mixture itself: what makes it a member."""
        return self

    def forward(self, *inputs: Any) -> ModuleMixtureOutput:
        """Let every member read the inputs, and combine what they say.

        Raises:
            IncompatibleMembersError: If the members differ in their number of outputs.
            MemberError: If a member gives something that is not a number.
        """
        outputs = [read_member(member, inputs) for member in self.members]
        check_sizes({name: output.shape[-1] for name, output in zip(self.member_names, outputs, strict=True)})
        for name, output in zip(self.member_names, outputs, strict=True):
            check_outputs(name, output, self.regression)
        return combine_outputs(self.combiner, torch.stack(outputs))

    def add_member(self, member: Member) -> ModuleMixture:
        """A mixture with one member more; see :meth:`moesaic.Mixture.add_member`.

        Raises:
            ValueError: If a member has its name already.
        """
        combiner = deepcopy(self.combiner)
        if combiner.num_members is not None:
            combiner.extend()
        return self._with([*self._members(), member], combiner)

    def replace_member(self, name: str, member: Member) -> ModuleMixture:
        """A mixture with another model in the place of one member; see :meth:`moesaic.Mixture.replace_member`.

        Raises:
            ValueError: If no member has that name, or another has the new one's.
        """
        members = self._members()
        members[position_of(name, self.member_names)] = member
        return self._with(members, deepcopy(self.combiner))

    def remove_member(self, name: str) -> ModuleMixture:
        """A mixture without one of the members; see :meth:`moesaic.Mixture.remove_member`.

        Raises:
            ValueError: If no member has that name, or it is the only one.
        """
        left = positions_without(name, self.member_names)
        combiner = deepcopy(self.combiner)
        if combiner.num_members is not None:
            combiner.select(left)
        members = self._members()
        return self._with([members[position] for position in left], combiner)

    def _members(self) -> list[Member]:
        return [ModuleMember(name, network) for name, network in zip(self.member_names, self.members, strict=True)]

    def _with(self, members: Sequence[Member], combiner: Combiner) -> ModuleMixture:
        return ModuleMixture(members, combiner, regression=self.regression, name=self.name)

    def save_combiner(self, folder: str | Path) -> None:
        """Write the combiner: its word and arguments as JSON, its parameters as safetensors; members are not saved."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        saved = {"type": self.combiner.word, **self.combiner.arguments()}
        described = {"members": self.member_names, "regression": self.regression, "combiner": saved}
        (folder / "mixture.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.combiner.state_dict().items()}
        save_file(tensors, folder / "combiner.safetensors")

    @classmethod
    def load(cls, folder: str | Path, members: Sequence[Member], *, num_outputs: int) -> ModuleMixture:
        """Make a mixture of members with the combiner that :meth:`save_combiner` wrote.

        Args:
            folder: Where it was written.
            members: The members, by the names and in the order that they had.
            num_outputs: Number of classes, or of regression outputs.

        Raises:
            IncompatibleMembersError: If the members are called otherwise.
        """
        described = json.loads((Path(folder) / "mixture.json").read_text(encoding="utf-8"))
        names = [member.name for member in members]
        if names != described["members"]:
            raise IncompatibleMembersError(
                f"{folder}: the combiner was saved for the members {', '.join(described['members'])}, and was given "
                f"{', '.join(names)}. Give the same members in the same order."
            )
        combiner = build_combiner(**described["combiner"])
        combiner.attach(len(members), num_outputs)
        combiner.load_state_dict(load_file(Path(folder) / "combiner.safetensors"))
        return cls(members, combiner, regression=described["regression"])

    def __repr__(self) -> str:
        return f"ModuleMixture([{', '.join(self.member_names)}], {self.combiner})"


def _check_combiner(combiner: Combiner, regression: bool) -> None:
    word = type(combiner).__name__
    if combiner.reads_tokens:
        raise ValueError(
            f"{word} reads the text that came before, and classifiers and regressors have none. Use a combiner that "
            "looks at the members' scores alone, such as Average, Weighted or Stacked."
        )
    if regression and isinstance(combiner, Tempered):
        raise ValueError(
            "Tempered divides by temperatures, which takes the outputs for class scores; those of a regression are "
            "numbers. Use its combiner alone, with space='logit'."
        )
    space = getattr(combiner, "space", "logit")
    if regression and space != "logit":
        raise ValueError(
            f"{word} combines in {space} space, which takes the outputs for class scores; those of a regression are "
            "numbers. Use space='logit'."
        )


def read_member(member: nn.Module, inputs: tuple[Any, ...]) -> Float[Tensor, "batch output"]:
    """What a member says of the inputs, whether it returns its scores or an object that has them."""
    output = member(*inputs)
    return output if isinstance(output, Tensor) else output.logits


def take_rows(inputs: tuple[Any, ...], rows: Int[Tensor, " row"]) -> tuple[Any, ...]:
    """Some rows of every input: tensors, arrays or texts."""
    return tuple(_take_one(part, rows) for part in inputs)


def _take_one(part: Any, rows: Int[Tensor, " row"]) -> Any:
    if isinstance(part, Tensor):
        return part[rows.to(part.device)]
    return part[rows.cpu().numpy()] if isinstance(part, np.ndarray) else [part[row] for row in rows.tolist()]


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Refuse members that answer different questions.

    Args:
        sizes: Number of outputs of each member, by its name.

    Raises:
        IncompatibleMembersError: If they differ.
    """
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise IncompatibleMembersError(
            f"Members that meet at logits need the same outputs: {given}. Train them on the same classes."
        )


def check_outputs(
    name: str, output: Float[Tensor, "batch output"], regression: bool, rows: Int[Tensor, " batch"] | None = None
) -> None:
    """Refuse what would spread over the whole output; among class scores minus infinity is a class ruled out.

    Args:
        name: The member.
        output: What it said.
        regression: Whether that are numbers.
        rows: Which inputs it was asked about, if not all.

    Raises:
        MemberError: If a member gives something that is not a number.
    """
    is_fine = output.isfinite() if regression else output.isfinite() | output.isneginf()
    wrong = ~is_fine.all(dim=-1)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        number = first if rows is None else int(rows[first])
        raise MemberError(
            f"{name} gives what is no number for {int(wrong.sum())} of {len(wrong)} inputs, the first being number "
            f"{number}. Train it again with a lower learning rate, or leave it out."
        )
