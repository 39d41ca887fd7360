"""Which way of combining text classifiers answers CLINC150 best: 150 intents, and what belongs to none of them?

    python -m benchmarks.intents

Every member is trained from scratch on the training split. Some are given word vectors, which are learned from scratch
too, from texts without labels: the training split's, its out-of-scope queries included, and those of
``lm/multidomain``. Weights, temperatures, stackers and thresholds are fitted on the validation split, without the few
texts of it that stand in the training split too: the leak check finds them. The figures are those of the test split, as
mean and standard deviation over seeds, the interval that of the first seed.

Out-of-scope queries are told apart by the paper's two protocols (Larson et al., 2019, section 4): a threshold on the
highest probability, chosen on the validation split with its out-of-scope queries for the highest accuracy where out of
scope is an intent of its own; and a 151st class, learned from the 100 out-of-scope queries of the training split.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed

from benchmarks.intent_data import OUT_OF_SCOPE, Answers, Intents, Logits, read_intents
from benchmarks.intent_ensembles import ENSEMBLES, combine_all, fit_member, mean_of, temper
from benchmarks.intent_members import MEMBERS, NETWORKS
from benchmarks.record import save
from moesaic.arena import Bootstrap, diversity, score_classifier
from moesaic.data import Examples
from moesaic.tasks import fit_temperature

DATA = Path("../shared/data/classification/clinc150")


def figures(made: Answers, intents: Intents) -> dict[str, float]:
    """What is reported of one classifier trained on the 150 intents."""
    temperature = fit_temperature(made.logits["validation"], intents.validation.labels)
    scores = score_classifier(made.logits["test"], intents.test.labels, temperature=temperature)
    in_scope, recall = by_threshold(made.logits, intents)
    interval = Bootstrap().interval({"test": scores}, "accuracy", ["test"])
    return {
        "accuracy": 100 * scores.accuracy,
        "low": 100 * interval.low,
        "high": 100 * interval.high,
        "macro precision": 100 * scores.macro_precision,
        "macro recall": 100 * scores.macro_recall,
        "macro F1": 100 * scores.macro_f1,
        "nats": scores.nats,
        "nats, tempered": scores.calibrated_nats,
        "ECE": 100 * scores.expected_calibration_error,
        "threshold: in scope": 100 * in_scope,
        "threshold: recall": 100 * recall,
        "validation": 100 * float((made.logits["validation"].argmax(-1) == intents.validation.labels).float().mean()),
        "M parameters": made.num_parameters / 1e6,
        "CPU seconds": made.seconds,
    }


def by_threshold(logits: Logits, intents: Intents) -> tuple[float, float]:
    """In-scope accuracy and out-of-scope recall with a threshold on the highest probability."""
    logits = temper(logits, intents)
    sure = {split: scores.softmax(dim=-1).amax(dim=-1) for split, scores in logits.items()}
    right = {split: logits[split].argmax(dim=-1) == getattr(intents, split).labels for split in ("validation", "test")}
    candidates = torch.cat([torch.zeros(1), sure["validation"], sure["oos_validation"]]).sort().values
    num_right = [
        int(
            (right["validation"] & (sure["validation"] >= threshold)).sum() + (sure["oos_validation"] < threshold).sum()
        )
        for threshold in candidates
    ]
    threshold = candidates[int(np.argmax(num_right))]
    in_scope = (right["test"] & (sure["test"] >= threshold)).float().mean()
    return float(in_scope), float((sure["oos_test"] < threshold).float().mean())


def by_class(logits: Logits, intents: Intents) -> dict[str, float]:
    """In-scope accuracy and out-of-scope recall where out of scope is a class that was trained."""
    in_scope = (logits["test"].argmax(dim=-1) == intents.test.labels).float().mean()
    recall = (logits["oos_test"].argmax(dim=-1) == OUT_OF_SCOPE).float().mean()
    return {"class: in scope": 100 * float(in_scope), "class: recall": 100 * float(recall)}


def summarize(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, as a row shows them."""
    row: dict[str, Any] = {}
    for column in runs[0]:
        values = np.array([run[column] for run in runs])
        if column in ("low", "high"):
            continue
        digits = 3 if column.startswith("nats") else 1 if column != "CPU seconds" else 0
        row[column] = f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")
        if column == "accuracy" and "low" in runs[0]:
            row["95% interval"] = f"{runs[0]['low']:.1f}–{runs[0]['high']:.1f}"
    return row


def in_processes(jobs: Mapping[Any, Any], num_processes: int, folder: Path | None) -> dict[Any, Answers]:
    """Run each job in a process of its own, unless its answers lie in the folder already."""
    paths = [None if folder is None else folder / f"{name}, seed {seed}.safetensors" for name, seed in jobs]
    fits = (delayed(_answer)(job, path) for job, path in zip(jobs.values(), paths, strict=True))
    return dict(zip(jobs, Parallel(n_jobs=num_processes)(fits), strict=True))


def _answer(job: Callable[[], Answers], path: Path | None) -> Answers:
    if path is not None and path.exists():
        return Answers.load(path)
    torch.set_num_threads(1)
    made = job()
    if path is not None:
        made.save(path)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="The folder of CLINC150.")
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds.")
    parser.add_argument("--processes", type=int, default=2, help="Trainings side by side, one thread each.")
    parser.add_argument("--answers", type=Path, help="Keep finished trainings' answers here, and go on from them.")
    arguments = parser.parse_args()
    intents = read_intents(arguments.data)
    seeds = range(arguments.seeds)

    jobs: dict[Any, Any] = {}
    for seed in seeds:
        jobs |= {(name, seed): partial(fit, intents, seed) for name, fit in ENSEMBLES.items()}
        fitted = MEMBERS if seed == 0 else NETWORKS
        jobs |= {(name, seed): partial(fit_member, name, intents, seed) for name in fitted}
    jobs |= {
        (name, "0 of 151 classes"): partial(fit_member, name, intents, 0, with_out_of_scope=True) for name in MEMBERS
    }
    started = time.perf_counter()
    made: dict[Any, Answers] = in_processes(jobs, arguments.processes, arguments.answers)
    made |= {(name, seed): made[name, 0] for seed in seeds for name in MEMBERS if name not in NETWORKS}

    runs: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        members = {name: made[name, seed] for name in MEMBERS}
        rows = members | {name: made[name, seed] for name in ENSEMBLES} | combine_all(members, intents)
        for name, row in rows.items():
            runs.setdefault(name, []).append(figures(row, intents))
    every = {f"{name} {seed}": made[name, seed] for seed in seeds for name in NETWORKS}
    every |= {f"{name} 0": made[name, 0] for name in MEMBERS if name not in NETWORKS}
    for name in NETWORKS:
        same = {key: member for key, member in every.items() if key.rsplit(" ", 1)[0] == name}
        runs[f"{len(same)} seeds of {name}"] = [figures(mean_of(same), intents)]
    runs["mean of log-probabilities of all members, all seeds"] = [figures(mean_of(every, tempered=intents), intents)]

    labels = torch.cat([intents.validation.labels, intents.oos_validation.labels])
    inputs = [*intents.validation.inputs, *intents.oos_validation.inputs]
    with_class = {name: with_out_of_scope_validation(made[name, "0 of 151 classes"]) for name in MEMBERS}
    by_class_rows = with_class | combine_all(with_class, replace(intents, validation=Examples(inputs, labels)))
    empty = {"class: in scope": "", "class: recall": ""}
    table = []
    for name, run in runs.items():
        known = by_class_rows.get(name)
        shown = {key: f"{value:.1f}" for key, value in by_class(known.logits, intents).items()} if known else empty
        table.append({"method": name} | summarize(run) | shown)
    predictions = torch.stack([made[name, 0].logits["test"].argmax(dim=-1) for name in MEMBERS])
    differ = diversity(predictions, intents.test.labels)
    print(f"members of seed 0: {differ}")
    save(
        "intents",
        table,
        command="intents",
        seeds=list(seeds),
        seconds=round(time.perf_counter() - started),
        disagreement=differ.disagreement,
        error_correlation=differ.error_correlation,
        validation_rows=len(intents.validation),
    )


def with_out_of_scope_validation(made: Answers) -> Answers:
    """The validation split with its out-of-scope queries, for members that have a class for them."""
    joined = torch.cat([made.logits["validation"], made.logits["oos_validation"]])
    return replace(made, logits=made.logits | {"validation": joined})


if __name__ == "__main__":
    main()
