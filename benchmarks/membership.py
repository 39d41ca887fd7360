"""What do the other domains lose when an expert of a sparse checkpoint is added, upgraded or removed?

    moesaic run recipes/quickstart.yaml
    python -m benchmarks.membership

Takes the experts of a finished run, trained on their domains, and does the same to each of them in turn. *Added*: all
others are assembled with the ridge router, then it comes. *Upgraded*: it takes the place of the seed model, an expert
without training of its own. *Removed*: from all experts assembled. Each is done with the ridge router fitted anew
(``refit``) and with the rows of the other experts as they were (``keep``; where the new expert's row is fitted between
them, also with a caution of 10). Then the expert is removed from the run's jointly trained mixture, and added to what
is left: there the routers have been trained, and attention has moved away from the experts'.

The loss is that on the run's test documents, in nats per token; *own* is the domain of the expert that changes.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.record import save
from moesaic.arena import measure
from moesaic.data import TokenizedDomain
from moesaic.members import load_network
from moesaic.moe import add_expert, assemble, remove_expert, replace_expert
from moesaic.recipe import load_recipe
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.work import Work

KEPT: dict[str, dict[str, Any]] = {"refit": {"router": "refit"}, "keep": {"router": "keep"}}
FITTED_BETWEEN = KEPT | {"keep, caution 10": {"router": "keep", "caution": 10.0}}
TARGET_PERCENT = 0.1


@dataclass
class Bench:
    """The finished run, and a folder for checkpoints and text."""

    work: Work
    folder: Path

    def __post_init__(self) -> None:
        self.domains = list(self.work.recipe.domain_names)
        self.experts = dict(zip(self.domains, self.work.expert_paths(), strict=True))
        self.seed = self.work.folder.stage_folder("seed") / "model"
        self.joint = self.work.folder.stage_folder("joint") / "model"
        self.blocks = self.work.test_blocks()
        self.texts = {domain.name: self.write_text(domain) for domain in self.work.domains}
        self.number = 0

    def write_text(self, domain: TokenizedDomain) -> Path:
        """Training documents of a domain in random order, as a user would give them."""
        tokens, starts = domain.train.tokens, domain.train.document_starts.tolist()
        ends = [*starts[1:], len(tokens)]
        order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(self.work.recipe.random_seed))
        path = self.folder / f"{domain.name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for index in order.tolist():
                # The token that ends a document is put there again when the text is read.
                document = self.work.tokenizer.decode(tokens[starts[index] : ends[index] - 1])
                file.write(json.dumps({"text": document}) + "\n")
        return path

    def text_of(self, names: list[str]) -> dict[str, Path]:
        return {name: self.texts[name] for name in names}

    def new(self) -> Path:
        self.number += 1
        return self.folder / f"mixture-{self.number}"

    def assemble(self, experts: dict[str, Path]) -> Path:
        """A sparse checkpoint with the ridge router, on the text that changes are fitted on too."""
        mixture = assemble(list(experts.values()), self.new(), member_names=list(experts))
        # An expert replaced by itself leaves nothing to do but to refit.
        first = next(iter(experts))
        return replace_expert(
            mixture, first, experts[first], self.new(), texts=self.text_of(list(experts)), router="refit"
        )

    def losses(self, mixture: Path) -> dict[str, float]:
        batch_size = self.work.recipe.arena.batch_size
        scores = measure(load_network(mixture), self.blocks, batch_size=batch_size, name="mixture").scores
        return {domain: scores[domain].value("nats_per_token") for domain in self.domains}

    def changes(self, own: str) -> Iterator[tuple[str, str, Path, Path]]:
        """What is done to one expert, under which router, with the mixtures before and after."""
        others = [domain for domain in self.domains if domain != own]
        everyone, expert = self.text_of(self.domains), self.experts[own]
        without = self.assemble({name: self.experts[name] for name in others})
        seeded = self.assemble(self.experts | {own: self.seed})
        whole = self.assemble(self.experts)
        trained_without = remove_expert(self.joint, own, self.new(), router="keep")
        for router, options in FITTED_BETWEEN.items():
            yield "added", router, without, add_expert(without, expert, self.new(), name=own, texts=everyone, **options)
        for router, options in KEPT.items():
            texts = everyone if router == "refit" else None
            after = replace_expert(seeded, own, expert, self.new(), texts=texts, **options)
            yield "upgraded", router, seeded, after
        for router, options in KEPT.items():
            texts = self.text_of(others) if router == "refit" else None
            for title, before in (("removed", whole), ("removed, trained mixture", self.joint)):
                yield title, router, before, remove_expert(before, own, self.new(), texts=texts, **options)
        for router, options in FITTED_BETWEEN.items():
            after = add_expert(trained_without, expert, self.new(), name=own, texts=everyone, **options)
            yield "added, trained mixture", router, trained_without, after


def percent(before: float, after: float) -> float:
    return 100 * (after / before - 1)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="A finished run of the recipe.")
    arguments = parser.parse_args()
    work = Work(load_recipe(arguments.recipe), RunFolder(arguments.run), Console(file=io.StringIO()))
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(work, Path(name))
        for own in bench.domains:
            for change, router, before, after in bench.changes(own):
                losses = {"before": bench.losses(before), "after": bench.losses(after)}
                measured.append({"change": change, "expert": own, "router": router, **losses})
                print(own, change, router, flush=True)
    save("membership", summary(measured), command="membership", recipe=work.loaded.text, changes=measured)


def summary(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each change and router: what the domains lose, over the experts that it was done to."""
    rows = []
    for change, router in sorted({(entry["change"], entry["router"]) for entry in measured}):
        entries = [entry for entry in measured if (entry["change"], entry["router"]) == (change, router)]
        own: list[float] = []
        others: list[float] = []
        for entry in entries:
            for domain, before in entry["before"].items():
                (own if domain == entry["expert"] else others).append(percent(before, entry["after"][domain]))
        rows.append(
            {
                "change": change,
                "router": router,
                "own domain, % of loss": f"{mean(own):+.2f}",
                "other domains, mean": f"{mean(others):+.2f}",
                "best": f"{min(others):+.2f}",
                "worst": f"{max(others):+.2f}",
                f"within {TARGET_PERCENT}%": f"{sum(value <= TARGET_PERCENT for value in others)} of {len(others)}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
