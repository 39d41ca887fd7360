"""What each stage of a task recipe does: it reads the folders of earlier stages and writes its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from moesaic.arena import Kind, TaskRow, TaskTable, oracle_task_row
from moesaic.combiners import Average, BySource, Hard
from moesaic.data import (
    Pair,
    PairDomain,
    PairSampler,
    TokenizedPairs,
    encode_cut,
    load_pair_domain,
    pad,
    read_pair,
    tokenize_pairs,
    train_pair_tokenizer,
    write_pair,
)
from moesaic.members import Seq2SeqLM, load_network, read_checkpoint, write_targets
from moesaic.recipe.build import build_source
from moesaic.recipe.stage_work import SPLITS, TABLE, StageWork, versions
from moesaic.recipe.task_build import build_decoding, build_model, build_task, build_task_options, dense_steps
from moesaic.recipe.task_schema import TaskDomainSection, TaskRecipe, TaskTrainingSection
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.tasks import GenerativeTask, read_task, write_task
from moesaic.training import RoutedSequenceToSequence, SequenceToSequence, SourceRouting, use_short_attention

ANSWERS = "answers.json"
ROUTER_ONLY = {"*": 0.0, "combiner.*": 1.0}
DENSE = "dense, same total pairs"
AVERAGE = "average of the experts"
ORACLE = "own expert (domain known)"
ROUTED = "mixture, one expert a source"
JOINT = "mixture, trained jointly"


@dataclass(frozen=True)
class System:
    """Something that writes answers: one row of the table, or a part of one.

    Attributes:
        name: What it is called.
        kind: What it is.
        needs: The stages that it is made of.
        build: Loads it.
        training_pairs: Pairs that it was trained on, its members included; a pair counts as often as it was read.
        domains: The domains that it is asked about.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    build: Callable[[], PreTrainedModel]
    training_pairs: int
    domains: tuple[str, ...]


@dataclass(frozen=True)
class TaskWork(StageWork[TaskRecipe]):
    """The work of a recipe for a task in which models write text."""

    # data

    def prepare_data(self, output: Path) -> None:
        """Read the rows, train a tokenizer where no model brings one, and write the tokens of every split."""
        domains = [self._read_domain(section) for section in self.recipe.data.domains]
        task = build_task(self.recipe).learn([pair for domain in domains for pair in domain.train])
        write_task(task, output)
        tokenizer = self._make_tokenizer(domains, task)
        tokenizer.model_max_length = self.recipe.data.max_source_tokens  # which the saved model then knows
        tokenizer.save_pretrained(output / "tokenizer")
        for domain in domains:
            for split in SPLITS:
                self._write_split(domain, split, tokenizer, output)

    def _read_domain(self, section: TaskDomainSection) -> PairDomain:
        task, folder = build_task(self.recipe), self.loaded.path.parent

        def read(row: Mapping[str, Any], place: str) -> Pair:
            return task.pair(section.fields | dict(row), place)

        sources = {"source": section.source, "validation": section.validation, "test": section.test}
        return load_pair_domain(
            section.name,
            read=read,
            **{use: build_source(source, folder) for use, source in sources.items() if source is not None},
            validation_fraction=self.recipe.data.validation_fraction,
            test_fraction=self.recipe.data.test_fraction,
        )

    def _make_tokenizer(self, domains: Sequence[PairDomain], task: GenerativeTask) -> PreTrainedTokenizerBase:
        brought = next(iter(self.recipe.experts.checkpoints.values()), None)
        if brought is not None:
            return AutoTokenizer.from_pretrained(read_checkpoint(self.resolve(brought)).path)
        texts = (text for domain in domains for pair in domain.train for text in (pair.source, pair.target))
        return train_pair_tokenizer(texts, self.recipe.data.vocab_size, tags=task.tags)

    def _write_split(self, domain: PairDomain, split: str, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
        section = self.recipe.data
        pairs: tuple[Pair, ...] = getattr(domain, split)
        if split == "test":
            pairs = pairs[: self.recipe.arena.max_examples]
        tokens, cut = tokenize_pairs(
            pairs,
            tokenizer,
            max_source_tokens=section.max_source_tokens,
            max_target_tokens=section.max_target_tokens,
        )
        tokens.save(output / f"{domain.name}.{split}.safetensors")
        lines = "".join(write_pair(pair) + "\n" for pair in pairs)
        (output / f"{domain.name}.{split}.jsonl").write_text(lines, encoding="utf-8")
        self.say(f"  {domain.name}, {split}: {len(pairs):,} pairs, {tokens.num_tokens:,} tokens; {cut}")

    def tokens(self, split: str) -> list[TokenizedPairs]:
        """The tokens of a split of every domain."""
        folder = self.folder.stage_folder("data")
        return [TokenizedPairs.load(folder / f"{name}.{split}.safetensors") for name in self.recipe.domain_names]

    def pairs(self, name: str, split: str = "test") -> list[Pair]:
        """The pairs of a split of a domain, as text."""
        text = (self.folder.stage_folder("data") / f"{name}.{split}.jsonl").read_text(encoding="utf-8")
        # Lines end at "\n" alone: some texts contain other separators.
        return [read_pair(line) for line in text.split("\n") if line]

    @cached_property
    def task(self) -> GenerativeTask:
        """The task, with what it took from the training rows."""
        task = read_task(self.folder.stage_folder("data"))
        assert task is not None, "the data stage writes the task"
        return task

    # training

    def train_expert(self, index: int, member: int, output: Path) -> None:
        """Train a model of one domain; further members of the same domain differ by their seed alone."""
        seed = self.recipe.random_seed + member
        name = self.recipe.domain_names[index]
        self._train_new([index], self.recipe.experts.training, f"{name}-{member + 1}", seed, output)

    def train_dense(self, output: Path) -> None:
        """Train one model on all domains, with as many pairs as experts and joint training together."""
        section = self.recipe.experts.training.model_copy(update={"num_steps": dense_steps(self.recipe)})
        domains = range(len(self.recipe.domain_names))
        self._train_new(domains, section, "dense", self.recipe.random_seed, output)

    def _train_new(
        self, domains: Sequence[int], section: TaskTrainingSection, title: str, seed: int, output: Path
    ) -> None:
        network = build_model(self.recipe.model, self.tokenizer, self.recipe, seed)
        sampler = self.sampler(section, seed, domains)
        options = build_task_options(section, sampler, seed)
        use_short_attention(network)
        self.train(network, output, title, options, SequenceToSequence(section.label_smoothing), sampler)

    def train_router(self, output: Path) -> None:
        """Train the router on the sources of all domains; the experts stay as they are."""
        section = self.recipe.router.training
        sampler = self.sampler(section, self.recipe.random_seed)
        options = build_task_options(section, sampler, self.recipe.random_seed, ROUTER_ONLY)
        combiner = BySource(choice=Hard(), router_width=self.recipe.router.width, seed=self.recipe.random_seed)
        mixture = Seq2SeqMixture(self.experts(), combiner)
        self.train(mixture, output, "router", options, SourceRouting(), sampler)
        write_task(self.task, output / "model")

    def train_jointly(self, output: Path) -> None:
        """Train experts and router together: each expert learns what the router sends it."""
        section = self.recipe.joint
        sampler = self.sampler(section, self.recipe.random_seed + 1)
        options = build_task_options(section, sampler, self.recipe.random_seed)
        objective = RoutedSequenceToSequence(section.label_smoothing, section.router_domain_loss_coef)
        mixture = self.load_stage("router")
        use_short_attention(mixture)
        self.train(mixture, output, "joint", options, objective, sampler)
        write_task(self.task, output / "model")

    def sampler(self, section: TaskTrainingSection, seed: int, domains: Sequence[int] | None = None) -> PairSampler:
        """The batches of a training stage, from the training pairs of all domains or some."""
        tokens = self.tokens("train")
        chosen = tokens if domains is None else [tokens[index] for index in domains]
        return PairSampler(chosen, section.batch_size, self.tokenizer.pad_token_id, seed)

    def experts(self) -> list[Seq2SeqLM]:
        """The experts, in the order of the domains."""
        return [
            Seq2SeqLM(name, load_network(path), self.tokenizer)
            for name, path in zip(self.recipe.domain_names, self.expert_paths(), strict=True)
        ]

    def expert_paths(self) -> list[Path]:
        """The experts' checkpoints, in the order of the domains."""
        given = self.recipe.experts.checkpoints
        if given:
            return [read_checkpoint(self.resolve(given[name])).path for name in self.recipe.domain_names]
        return [self.folder.stage_folder(f"expert-{name}") / "model" for name in self.recipe.domain_names]

    # what is compared

    def systems(self) -> list[System]:
        """Everything that writes answers, in the order of the table."""
        names = self.recipe.domain_names
        tokens = self._expert_pairs()
        found = [
            System(
                f"expert {name}", "expert", self.expert_stages[index : index + 1], self._expert(index), tokens, names
            )
            for index, name in enumerate(names)
        ]
        everything = tokens * len(names)
        found.append(System(DENSE, "reference", ("dense",), self._stage("dense"), self._joint_pairs(), names))
        found.append(System(AVERAGE, "ensemble", self.expert_stages, self._average, everything, names))
        found.append(System(ROUTED, "mixture", ("router",), self._stage("router"), everything, names))
        if self.recipe.joint.num_steps:
            found.append(System(JOINT, "mixture", ("joint",), self._stage("joint"), self._joint_pairs(), names))
        return found + self._members_and_ensembles()

    def _members_and_ensembles(self) -> list[System]:
        """Further members of each domain, and the ensemble of all its members; each is asked about its own domain."""
        count, pairs = self.recipe.experts.num_members, self._expert_pairs()
        found = []
        for index, name in enumerate(self.recipe.domain_names if count > 1 else ()):
            stages = self.member_stages(index)
            for member, stage in enumerate(stages[1:], start=2):
                found.append(System(member_name(member, name), "expert", (stage,), self._stage(stage), pairs, (name,)))
            build = self._ensemble(stages)
            found.append(System(ensemble_name(count, name), "ensemble", stages, build, count * pairs, (name,)))
        return found

    def _expert(self, index: int) -> Callable[[], PreTrainedModel]:
        return lambda: load_network(self.expert_paths()[index])

    def _stage(self, stage: str) -> Callable[[], PreTrainedModel]:
        return lambda: self.load_stage(stage)

    def _average(self) -> PreTrainedModel:
        return Seq2SeqMixture(self.experts(), Average()).eval()

    def _ensemble(self, stages: Sequence[str]) -> Callable[[], PreTrainedModel]:
        def build() -> PreTrainedModel:
            members = [Seq2SeqLM(stage, self.load_stage(stage), self.tokenizer) for stage in stages]
            return Seq2SeqMixture(members, Average()).eval()

        return build

    def _expert_pairs(self) -> int:
        """Pairs that an expert was trained on; 0 where it came from elsewhere."""
        section = self.recipe.experts.training
        return 0 if self.recipe.experts.checkpoints else section.num_steps * section.batch_size

    def _joint_pairs(self) -> int:
        return dense_steps(self.recipe) * self.recipe.experts.training.batch_size

    # measuring and handing over

    @torch.no_grad()
    def write_answers(self, system: System, output: Path) -> None:
        """Have a system answer the test rows of its domains."""
        network = system.build()
        texts, seconds, routed = {}, {}, {}
        for name in system.domains:
            sources = [pair.source for pair in self.pairs(name)]
            started = time.perf_counter()
            texts[name] = write_targets(
                network,
                self.tokenizer,
                sources,
                build_decoding(self.recipe),
                max_source_tokens=self.recipe.data.max_source_tokens,
            )
            seconds[name] = time.perf_counter() - started
            if isinstance(network, Seq2SeqMixture) and isinstance(network.combiner, BySource):
                routed[name] = self._route(network, network.combiner, sources)
        total = sum(parameter.numel() for parameter in network.parameters())
        written = {"texts": texts, "seconds": seconds, "routed": routed, "total": total}
        written["active"] = _active_parameters(network)
        (output / ANSWERS).write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")

    def _route(self, mixture: Seq2SeqMixture, router: BySource, sources: Sequence[str]) -> dict[str, float]:
        """The share of the sources that each expert gets."""
        encoded, _, _ = encode_cut(sources, self.tokenizer, self.recipe.data.max_source_tokens)
        source_ids, mask = pad([torch.tensor(ids) for ids in encoded], self.tokenizer.pad_token_id)
        shares = router.route(source_ids, mask.bool()).weights.mean(dim=0)
        return dict(zip(mixture.member_names, shares.tolist(), strict=True))

    def compare(self, folders: Sequence[Path], output: Path) -> None:
        """Score all answers, domain by domain, against the domain's best model of its own."""
        systems = self.systems()
        answered = {
            system.name: json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
            for system, folder in zip(systems, folders, strict=True)
        }
        cells: dict[str, dict[str, Any]] = {system.name: {} for system in systems}
        baselines = {}
        for domain in self.recipe.domain_names:
            texts = {name: written["texts"][domain] for name, written in answered.items() if domain in written["texts"]}
            pairs = self.pairs(domain)
            texts |= self.task.baselines(pairs)
            own = [f"expert {domain}", *(member_name(member, domain) for member in self._further_members())]
            baselines[domain] = self._best(own, texts, pairs)
            found = self.task.compare(
                texts, pairs, baseline=baselines[domain], num_resamples=self.recipe.arena.num_resamples
            )
            for name, measured in found.items():
                cells.setdefault(name, {})[domain] = measured
            self.say(f"  {domain}: {baselines[domain]} is the best model of its own")
        table = self._table(systems, answered, cells, baselines)
        (output / TABLE).write_text(table.to_json())
        (output / "table.md").write_text(table.to_markdown() + "\n" + table.confusion_markdown())
        (output / "table.csv").write_text(table.to_csv())

    def _further_members(self) -> range:
        return range(2, self.recipe.experts.num_members + 1)

    def _best(self, names: Sequence[str], texts: Mapping[str, Sequence[str]], pairs: Sequence[Pair]) -> str:
        if len(names) == 1:
            return names[0]
        found = self.task.compare({name: texts[name] for name in names}, pairs, num_resamples=1)
        return max(names, key=lambda name: found[name][self.task.metrics[0]].value)

    def _table(
        self,
        systems: Sequence[System],
        answered: Mapping[str, Mapping[str, Any]],
        cells: Mapping[str, Mapping[str, Any]],
        baselines: Mapping[str, str],
    ) -> TaskTable:
        rows = [
            TaskRow(
                system.name,
                system.kind,
                cells[system.name],
                answered[system.name]["total"],
                answered[system.name]["active"],
                system.training_pairs,
                answered[system.name]["seconds"],
            )
            for system in systems
        ]
        experts = rows[: len(self.recipe.domain_names)]
        rows.insert(len(experts), oracle_task_row(experts, self.recipe.domain_names, ORACLE))
        # What needs no model stands before everything else.
        for name in reversed([name for name in cells if name not in answered]):
            rows.insert(0, TaskRow(name, "reference", cells[name], 0, 0, 0, {}))
        final = JOINT if self.recipe.joint.num_steps else ROUTED
        return TaskTable(
            tuple(rows),
            self.recipe.domain_names,
            self.task.metrics,
            baselines,
            self.task.signatures(),
            answered[final]["routed"],
        )

    @property
    def table(self) -> TaskTable:
        """The finished arena's table."""
        return TaskTable.from_json((self.folder.stage_folder("arena") / TABLE).read_text())

    def export(self, output: Path) -> None:
        """Write the final mixture, with its task and its card, where a user finds it."""
        source = self.folder.stage_folder(self.final_stage) / "model"
        shutil.copytree(source, output, dirs_exist_ok=True)
        (output / "README.md").write_text(self._card(), encoding="utf-8")

    def _card(self) -> str:
        made = ", ".join(f"{package} {number}" for package, number in versions().items())
        return _CARD.format(
            title=self.loaded.name,
            task=self.task.word,
            experts=", ".join(self.recipe.domain_names),
            verdict=self.table.verdict(),
            table=self.table.to_markdown(),
            versions=made,
            recipe=self.loaded.text,
        )

    # what stages know of the whole

    def member_stages(self, index: int) -> tuple[str, ...]:
        """The stages that train the models of a domain; none where checkpoints are given."""
        if self.recipe.experts.checkpoints:
            return ()
        name = self.recipe.domain_names[index]
        return (f"expert-{name}", *(f"expert-{name}-{member}" for member in self._further_members()))

    @property
    def expert_stages(self) -> tuple[str, ...]:
        """The stages that train one expert a domain; none where checkpoints are given."""
        return tuple(stage for index in range(len(self.recipe.domain_names)) for stage in self.member_stages(index)[:1])

    @property
    def final_stage(self) -> str:
        """The stage that made the final mixture."""
        return "joint" if self.recipe.joint.num_steps else "router"


def member_name(member: int, domain: str) -> str:
    """What a further model of a domain is called in the table."""
    return f"expert {domain}, seed {member}"


def ensemble_name(num_members: int, domain: str) -> str:
    """What the ensemble of a domain's models is called in the table."""
    return f"ensemble of {num_members} ({domain})"


def _active_parameters(network: Any) -> int:
    """Parameters that work on one source: those of one member where a router chooses it."""
    total = sum(parameter.numel() for parameter in network.parameters())
    if not isinstance(network, Seq2SeqMixture) or not isinstance(network.combiner, BySource):
        return total
    members = [sum(parameter.numel() for parameter in member.parameters()) for member in network.members]
    return total - sum(members) + max(members)


_CARD = """\
---
library_name: transformers
tags: [moesaic, mixture-of-experts, {task}]
---

# {title}

A mixture of {experts}, made with [moesaic](https://pypi.org/project/moesaic) for {task}: a router reads each source and
chooses one expert, which alone reads and answers it.

```python
import moesaic

print(moesaic.generate(".", "...", fields={{}}))  # this folder; fields: what a row has beside its text
```

## How it compares

{verdict}

{table}
## How it was made

{versions}.

```yaml
{recipe}```
"""
