"""A member whose scores are not numbers is named, before it makes everything that is combined with it NaN."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from moesaic.errors import MemberError


def check_numbers(member_names: Sequence[str], member_logits: Float[Tensor, "member *axes vocab"]) -> None:
    """Refuse members that give NaN.

    Scores of minus infinity are fine: they rule tokens out.

    Args:
        member_names: The members, in the order of the first axis.
        member_logits: Their scores.

    Raises:
        MemberError: Naming the members, with the number of positions for which each gives NaN.

    Example:
        >>> import torch
        >>> check_numbers(["news"], torch.tensor([[[0.1, 0.2], [0.3, float("nan")]]]))
        Traceback (most recent call last):
        ...
        moesaic.errors.MemberError: These members give NaN: 'news' for 1 of 2 positions. Their weights are ...
    """
    # One sum for all, as NaN survives it; so does infinity minus infinity, hence the closer look before an error.
    if not member_logits.detach().sum().isnan().item():
        return
    damaged = member_logits.isnan().any(dim=-1).flatten(1)  # (member, position)
    counts = damaged.sum(dim=1).tolist()
    given = ", ".join(
        f"{name!r} for {count} of {damaged.shape[1]} positions"
        for name, count in zip(member_names, counts, strict=True)
        if count
    )
    if given:
        raise MemberError(
            f"These members give NaN: {given}. Their weights are damaged, or overflow in their type: load them again, "
            "in float32 if they were not, or leave them out."
        )
