"""What a model card says of a sparse mixture's experts, and how it is told of those that come and go."""

from __future__ import annotations

from collections.abc import Sequence

CARD = "README.md"
"""The model card's file, beside the weights."""

MEASURED = "## How it compares"
"""The heading under which a card has its table."""

_CHANGES = "## Changed since\n\nWhat stands below was measured and made before this:\n\n"


def card_opening(experts: Sequence[str], top_k: int | None) -> str:
    """The paragraph with which a card begins.

    Args:
        experts: The experts' names.
        top_k: Experts that work on each token; ``None`` where the routers choose in a way of their own.
    """
    active = "as many as its routers choose" if top_k is None else top_k
    return (
        f"One sparse mixture of {len(experts)} experts ({', '.join(experts)}), made with "
        "[moesaic](https://pypi.org/project/moesaic): each\nexpert was trained on its own domain; their feed-forward "
        f"layers became the experts of one model, of which {active} work\non each token."
    )


def change_card(card: str, change: str, before: str, after: str) -> str:
    r"""A card after a change of the experts; one that moesaic did not write stays as it is.

    Args:
        card: The card.
        change: What was done, without a full stop.
        before: How the card began (:func:`card_opening`).
        after: How it begins now.

    Example:
        >>> before, after = card_opening(["news", "law"], 1), card_opening(["news"], 1)
        >>> card = f"{before}\n\n{MEASURED}\n"
        >>> change_card(card, "`law` was removed", before, after).splitlines()[-3:]
        ['- `law` was removed.', '', '## How it compares']
    """
    if before not in card or MEASURED not in card:
        return card
    head, measured, tail = card.replace(before, after).partition(MEASURED)
    head = head.removesuffix("\n") if _CHANGES in head else head + _CHANGES  # the list goes on, or begins
    return f"{head}- {change}.\n\n{measured}{tail}"
