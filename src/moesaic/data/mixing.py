"""How often the pairs of each domain are read where one model learns several domains, large ones and small ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from moesaic.data.pair_tokens import TokenizedPairs


def mix_domains(domains: Sequence[TokenizedPairs], temperature: float) -> list[TokenizedPairs]:
    """Repeat the pairs of smaller domains, so that each is read as often as its share says.

    The share of a domain of ``n`` pairs is proportional to ``n ** (1 / temperature)``: 1 leaves everything as it is,
    and the higher the temperature, the more alike the shares become. The largest domain is never repeated.

    Args:
        domains: The pairs of each domain.
        temperature: At least 1.

    Raises:
        ValueError: If the temperature is lower.

    Example:
        >>> small, large = (TokenizedPairs(*[torch.ones(size, dtype=torch.int64)] * 4) for size in (4, 100))
        >>> [len(mixed) for mixed in mix_domains([small, large], temperature=2)]
        [20, 100]

    Reference: Raffel et al. (2020), section 3.5.2 (temperature-scaled mixing), https://arxiv.org/abs/1910.10683
    """
    if not temperature >= 1:
        raise ValueError(f"temperature must be at least 1, got {temperature:g}.")
    largest = max(len(pairs) for pairs in domains)
    sizes = [round(largest * (len(pairs) / largest) ** (1 / temperature)) for pairs in domains]
    return [_repeat(pairs, size) for pairs, size in zip(domains, sizes, strict=True)]


def _repeat(pairs: TokenizedPairs, size: int) -> TokenizedPairs:
    """The pairs again and again, until there are so many; the first ones may stand once more than the last."""
    if size == len(pairs):
        return pairs
    rows = [row % len(pairs) for row in range(size)]
    sources, targets = pairs.sources(), pairs.targets()
    return TokenizedPairs(
        torch.cat([sources[row] for row in rows]),
        pairs.source_lengths[rows],
        torch.cat([targets[row] for row in rows]),
        pairs.target_lengths[rows],
    )
