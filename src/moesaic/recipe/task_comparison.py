"""The table of a task: what all systems answered, domain by domain, against the domain's best model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesaic.arena import TaskReference, TaskRow, TaskTable, oracle_task_row
from moesaic.recipe.stage_work import TABLE
from moesaic.recipe.task_build import expert_pairs
from moesaic.recipe.task_schema import TaskRecipe
from moesaic.recipe.task_scores import Likelihoods, measure
from moesaic.recipe.task_systems import JOINT, ORACLE, ROUTED, System, member_name, task_dense_name
from moesaic.recipe.task_work import TaskWork
from moesaic.tasks import ONLY, Answers, Measured


def compare(work: TaskWork, systems: Sequence[System], output: Path) -> None:
    """Score all answers and write the table.

    Args:
        work: The run.
        systems: Everything that answered.
        output: Where the table goes.
    """
    table = _Comparison(work, systems, {system.name: work.answered(system.name) for system in systems}).table()
    (output / TABLE).write_text(table.to_json())
    (output / "table.md").write_text(table.to_markdown() + "\n" + table.confusion_markdown())
    (output / "table.csv").write_text(table.to_csv())


@dataclass(frozen=True)
class _Comparison:
    """What is compared.

    Attributes:
        work: The run.
        systems: Everything that answered.
        answered: What each wrote, as :meth:`TaskWork.write_answers` has it, by its name.
    """

    work: TaskWork
    systems: Sequence[System]
    answered: Mapping[str, Mapping[str, Any]]

    @property
    def recipe(self) -> TaskRecipe:
        return self.work.recipe

    def table(self) -> TaskTable:
        """Score everything."""
        cells: dict[str, dict[str, Any]] = {system.name: {} for system in self.systems}
        baselines, references = {}, {}
        for domain in self.recipe.domain_names:
            task, texts, likelihoods = self.recipe.task_of(domain), *self._of_domain(domain)
            baselines[domain] = self._best_own(domain, texts, likelihoods)
            for name, measured in self._measure(domain, texts, likelihoods, baselines[domain]).items():
                cells.setdefault(name, {})[domain] = measured
            if task in self.recipe.shared_tasks:
                references[domain] = self._task_reference(domain, texts, likelihoods)
            self.work.say(f"  {domain}: {baselines[domain]} is the best model of its own")
        metrics = {domain: self.recipe.metrics_of(domain) for domain in self.recipe.domain_names}
        final = JOINT if self.recipe.joint.num_steps else ROUTED
        return TaskTable(
            tuple(self._rows(cells)),
            self.recipe.domain_names,
            tuple(dict.fromkeys(metric for own in metrics.values() for metric in own)),
            baselines,
            self.work.tasks.signatures(),
            self.answered[final]["routed"],
            {} if ONLY in self.work.tasks.tasks else metrics,
            references,
        )

    def _of_domain(self, domain: str) -> tuple[Answers, Likelihoods]:
        """What systems wrote in a domain, what is written without one, and how likely they found the references."""
        texts = {
            name: written["texts"][domain] for name, written in self.answered.items() if domain in written["texts"]
        }
        scored = {name: written.get("likelihoods", {}).get(domain) for name, written in self.answered.items()}
        baselines = self.work.tasks.baselines(self.recipe.task_of(domain), self.work.pairs(domain))
        return {**texts, **baselines}, {name: scores for name, scores in scored.items() if scores}

    def _measure(
        self,
        domain: str,
        texts: Answers,
        likelihoods: Likelihoods,
        baseline: str,
        *,
        num_resamples: int | None = None,
    ) -> dict[str, dict[str, Measured]]:
        return measure(
            self.work.tasks,
            self.recipe.task_of(domain),
            texts,
            likelihoods,
            self.work.pairs(domain),
            baseline=baseline,
            num_resamples=num_resamples or self.recipe.arena.num_resamples,
        )

    def _best_own(self, domain: str, texts: Answers, likelihoods: Likelihoods) -> str:
        """The best of a domain's own models."""
        further = range(2, self.recipe.num_members_of(domain) + 1)
        names = [f"expert {domain}", *(member_name(member, domain) for member in further)]
        if len(names) == 1:
            return names[0]
        found = self._measure(domain, {name: texts[name] for name in names}, likelihoods, names[0], num_resamples=1)
        return max(names, key=lambda name: found[name][self.recipe.metrics_of(domain)[0]].value)

    def _task_reference(self, domain: str, texts: Answers, likelihoods: Likelihoods) -> TaskReference:
        """How all others compare with the model of the domain's task alone."""
        name, metric = task_dense_name(self.recipe.task_of(domain)), self.recipe.metrics_of(domain)[0]
        found = self._measure(domain, texts, likelihoods, name)
        p_values = {system: measured[metric].p_value for system, measured in found.items() if metric in measured}
        return TaskReference(name, {system: p_value for system, p_value in p_values.items() if p_value is not None})

    def _rows(self, cells: Mapping[str, Mapping[str, Any]]) -> list[TaskRow]:
        """What needs no model, the experts and their oracle, and all others."""
        rows = [
            TaskRow(
                system.name,
                system.kind,
                cells[system.name],
                self.answered[system.name]["total"],
                self.answered[system.name]["active"],
                system.training_pairs,
                self.answered[system.name]["seconds"],
            )
            for system in self.systems
        ]
        count = len(self.recipe.domain_names)
        oracle = oracle_task_row(rows[:count], self.recipe.domain_names, ORACLE)
        # They share the seed, which counts once.
        rows.insert(count, replace(oracle, training_pairs=expert_pairs(self.recipe, count)))
        without_model = [name for name in cells if name not in self.answered]
        return [*(TaskRow(name, "reference", cells[name], 0, 0, 0, {}) for name in without_model), *rows]
