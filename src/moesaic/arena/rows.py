"""One line of the arena's table: a way of combining, how well it answers and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from moesaic.arena.budget import Budget
from moesaic.arena.classification import ClassificationScores
from moesaic.arena.diversity import Diversity
from moesaic.arena.scores import DocumentScores, DomainScores

Kind = Literal["expert", "reference", "ensemble", "mixture"]

ORACLE = "oracle (domain known)"
DENSE = "dense, same total tokens"


@dataclass(frozen=True)
class Row:
    """One way of answering.

    Attributes:
        name: What it is.
        kind: An expert alone, a reference, an ensemble of whole models, or a sparse mixture.
        scores: Its scores on every domain.
        total_parameters: Parameters in all.
        active_parameters: Parameters that work on a token.
        tokens_per_second: Tokens read in a second, or examples; ``None`` for what is no model that can be run.
        training_tokens: Tokens on which it was trained, those of its members and of their seed included; ``None`` where
            that is not known.
        training_flops: Floating-point operations of that training.
        temperature: What its logits are divided by for the calibrated loss.
        diversity: How differently its members answer; ``None`` where there are none.
        peak_bytes: Memory of its weights and of what one batch took at most.
        figures: Other figures by their names, each a column, such as the recall of what is out of scope.
        budget: What it was allowed to use.
    """

    name: str
    kind: Kind
    scores: Mapping[str, DomainScores]
    total_parameters: int
    active_parameters: int
    tokens_per_second: float | None
    training_tokens: int | None
    training_flops: float | None = None
    temperature: float | None = None
    diversity: Diversity | None = None
    peak_bytes: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    budget: Budget | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values, with every document's scores."""
        return asdict(self) | {"scores": {domain: scores.to_json() for domain, scores in self.scores.items()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        """Read what :meth:`to_json` wrote, now or before there were so many figures."""
        scores = {domain: _read_scores(stored) for domain, stored in values["scores"].items()}
        parts = {
            name: None if values.get(name) is None else part(**values[name])
            for name, part in (("diversity", Diversity), ("budget", Budget))
        }
        return cls(**(values | {"scores": scores} | parts))


def _read_scores(values: dict[str, Any]) -> DomainScores:
    kinds = {scores.kind: scores for scores in (DocumentScores, ClassificationScores)}
    # Tables that do not say are older than the scores of classifiers.
    return kinds[values.get("kind", DocumentScores.kind)].from_json(values)


def oracle_row(experts: Sequence[Row], domains: Sequence[str]) -> Row:
    """The row that always asks the domain's own expert: what a router that makes no mistake would reach.

    Args:
        experts: The experts' rows, in the order of the domains.
        domains: The domains.
    """
    first = experts[0]
    return Row(
        name=ORACLE,
        kind="reference",
        scores={domain: expert.scores[domain] for domain, expert in zip(domains, experts, strict=True)},
        total_parameters=sum(expert.total_parameters for expert in experts),
        active_parameters=first.active_parameters,
        tokens_per_second=None,
        training_tokens=first.training_tokens,
        training_flops=first.training_flops,
    )
