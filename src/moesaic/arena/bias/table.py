"""One table of bias: a row for each model, so that it shows whether combining helped or spread it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Group, RenderableType

from moesaic.arena.bias.bbq import AnswerScores, Question, read_bbq, score_bbq
from moesaic.arena.bias.crows_pairs import PairScores, SentencePair, read_crows_pairs, score_crows_pairs
from moesaic.arena.bootstrap import Bootstrap, Interval
from moesaic.arena.grid import Grid, GridColumn, GridSection, row_called
from moesaic.arena.scores import METRICS, DomainScores, Metric
from moesaic.types import Member

_Item = TypeVar("_Item")

ALL = "all"
"""What all categories together are called."""

_TITLES = {
    "crows_pairs": "CrowS-Pairs: share of pairs whose stereotype is likelier, 0.5 is even (95% interval over pairs)",
    "bbq": "BBQ: accuracy, and bias from -1 to 1, 0 is none (95% interval over questions)",
}
_METRICS: dict[str, tuple[Metric, ...]] = {
    "crows_pairs": ("stereotype_share",),
    "bbq": ("ambiguous_accuracy", "disambiguated_accuracy", "ambiguous_bias", "disambiguated_bias"),
}


@dataclass(frozen=True)
class BiasRow:
    """What was measured of one model.

    Attributes:
        name: The model.
        tests: Its scores by test (``crows_pairs``, ``bbq``) and category; ``all`` is every category together.
    """

    name: str
    tests: Mapping[str, Mapping[str, DomainScores]]


@dataclass(frozen=True)
class BiasTable:
    """The bias of several models on the same sentences and questions.

    Attributes:
        rows: One row a model.
        by_category: Show every category besides all together.
        bootstrap: How intervals are found.
    """

    rows: tuple[BiasRow, ...]
    by_category: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def row(self, name: str) -> BiasRow:
        """The row of that name.

        Raises:
            KeyError: If there is none.
        """
        return row_called(name, self.rows)

    @property
    def metrics(self) -> list[Metric]:
        """The figures that were measured."""
        return [metric for test in self.rows[0].tests for metric in _METRICS[test]]

    def categories(self, metric: Metric) -> list[str]:
        """The categories in which a figure was measured, without that of all together."""
        scores = self.rows[0].tests[_test_of(metric)]
        return [category for category in scores if category != ALL and scores[category].has(metric)]

    def interval(self, row: BiasRow, metric: Metric, category: str = ALL) -> Interval | None:
        """A figure of a row, with its interval; ``None`` if the category has nothing that it could be measured on."""
        scores = row.tests[_test_of(metric)]
        return self.bootstrap.interval(scores, metric, [category]) if scores[category].has(metric) else None

    def difference(self, first: BiasRow, second: BiasRow, metric: Metric, category: str = ALL) -> Interval:
        """How much larger a figure is for the first row than for the second, on the same sentences or questions."""
        test = _test_of(metric)
        return self.bootstrap.difference(first.tests[test], second.tests[test], metric, [category])

    def grid(self) -> Grid:
        """The cells that a terminal and a page show."""
        names = tuple(row.name for row in self.rows)
        return Grid(names, tuple("" for _ in names), tuple(self._sections()), heading="model")

    def _sections(self) -> list[GridSection]:
        sections = []
        for test in self.rows[0].tests:
            columns = (self._column(METRICS[metric].heading, metric, ALL) for metric in _METRICS[test])
            sections.append(GridSection(_TITLES[test], tuple(columns)))
            for metric in _METRICS[test] if self.by_category else ():
                columns = (self._column(category, metric, category) for category in self.categories(metric))
                sections.append(
                    GridSection(f"{_TITLES[test].split(':')[0]}: {METRICS[metric].heading}", tuple(columns))
                )
        return sections

    def _column(self, heading: str, metric: Metric, category: str) -> GridColumn:
        figures = [self.interval(row, metric, category) for row in self.rows]
        return GridColumn(heading, tuple("" if figure is None else str(figure) for figure in figures))

    @property
    def note(self) -> str:
        """How many questions could not be counted for bias; empty if all were."""
        answers = self.rows[0].tests.get("bbq", {}).get(ALL)
        if not isinstance(answers, AnswerScores) or answers.has_stereotype.all():
            return ""
        return (
            f"Of {(~answers.has_stereotype).sum()} of {len(answers)} questions the stereotype is not known; they count "
            "for accuracy alone."
        )

    def to_rich(self, *, width: int = 80) -> RenderableType:
        """The table for a terminal of so many columns."""
        return Group(self.grid().to_rich(width), self.note)

    def to_markdown(self) -> str:
        """The table for a page."""
        return self.grid().to_markdown() + (f"\n{self.note}\n" if self.note else "")

    def __str__(self) -> str:
        return self.to_markdown()


def _test_of(metric: Metric) -> str:
    return next(test for test, metrics in _METRICS.items() if metric in metrics)


def measure_bias(
    models: Member | Sequence[Member],
    *,
    crows_pairs: str | Path | None = None,
    bbq: str | Path | Sequence[str | Path] | None = None,
    limit: int | None = None,
    by_category: bool = False,
    batch_size: int = 16,
    num_resamples: int = 1000,
    seed: int = 0,
) -> BiasTable:
    """Measure whether models prefer stereotypes.

    Args:
        models: One model or several, such as experts and the mixture of them; each with a tokenizer.
        crows_pairs: CrowS-Pairs: the official CSV file, or JSONL with the same fields.
        bbq: BBQ: an official JSONL file, or several, one a category.
        limit: Pairs and questions that are read at most, spread evenly over each file; all if not given.
        by_category: Show every category besides all together.
        batch_size: Texts read at once.
        num_resamples: Bootstrap resamples behind each confidence interval.
        seed: Makes the resamples.

    Returns:
        The table: the share of pairs whose stereotype is likelier; accuracy and bias score where the text leaves the
        answer open and where it tells.

    Raises:
        DataError: If a file cannot be read, or a line of it is wrong.
        ValueError: If there is no model or no file, two models have one name, or one cannot be measured.
        MemberError: If a model gives something that is not a number.
    """
    measured = list(models) if isinstance(models, Sequence) else [models]
    _check_names([model.name for model in measured])
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    pairs = [] if crows_pairs is None else _spread(read_crows_pairs(crows_pairs), limit)
    files = [] if bbq is None else [bbq] if isinstance(bbq, str | Path) else list(bbq)
    questions = _spread([question for file in files for question in read_bbq(file)], limit)
    if not pairs and not questions:
        raise ValueError("There is nothing to measure: give crows_pairs, bbq, or both.")
    rows = [BiasRow(model.name, _score(model, pairs, questions, batch_size)) for model in measured]
    return BiasTable(tuple(rows), by_category, Bootstrap(num_resamples, seed))


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("There is no model to measure; give at least one.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two models are called {name!r}; give each its own name.")


def _spread(items: Sequence[_Item], limit: int | None) -> list[_Item]:
    """So many items at most, evenly from the first to the last: files are sorted by category."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]


def _score(
    model: Member, pairs: Sequence[SentencePair], questions: Sequence[Question], batch_size: int
) -> dict[str, dict[str, DomainScores]]:
    """A model's scores, by test and category."""
    tests: dict[str, dict[str, DomainScores]] = {}
    if pairs:
        scores = score_crows_pairs(model, pairs, batch_size=batch_size)
        tests["crows_pairs"] = _by_category(scores, [pair.category for pair in pairs])
    if questions:
        answers = score_bbq(model, questions, batch_size=batch_size)
        tests["bbq"] = _by_category(answers, [question.category for question in questions])
    return tests


def _by_category(scores: PairScores | AnswerScores, categories: Sequence[str]) -> dict[str, DomainScores]:
    """The scores of everything, and of each category."""
    labels = np.array(categories)
    return {ALL: scores, **{name: scores.take(labels == name) for name in sorted(set(categories))}}
