"""Which way of combining text classifiers answers CLINC150 best: 150 intents, and what belongs to none of them?

    python -m benchmarks.intents

Every member is trained from scratch on the training split. Weights, temperatures, stackers and thresholds are fitted on
the validation split, without the few texts of it that stand in the training split too: the leak check finds them. The
figures are those of the test split, as mean and standard deviation over seeds, the interval that of the first seed.

Out-of-scope queries are told apart by the paper's two protocols (Larson et al., 2019, section 4): a threshold on the
highest probability, chosen on the validation split with its out-of-scope queries for the highest accuracy where out of
scope is an intent of its own; and a 151st class, learned from the 100 out-of-scope queries of the training split.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.intent_members import BATCH_SIZE, LEARNERS, NETWORKS, NGRAM_LINEAR, network_learner
from benchmarks.record import save
from moesaic.arena import Bootstrap, diversity, score_classifier
from moesaic.combiners import Additive, Average, Combiner, Entropy, Stacked, Tempered, Weighted
from moesaic.data import Examples, check_unseen
from moesaic.members import EstimatorModule, ModuleMember
from moesaic.module_mixture import ModuleMixture, combine_outputs
from moesaic.tasks import fit_temperature
from moesaic.training import (
    Classification,
    HeldOut,
    Learner,
    NetworkLearner,
    adaboost,
    average_parameters,
    bag,
    fit_combiner,
    fit_snapshots,
    fit_weights,
    gradient_boost,
    out_of_bag_accuracy,
    out_of_fold_logits,
    predict_logits,
    sample_examples,
    select_greedily,
)

DATA = Path("../shared/data/classification/clinc150")
OUT_OF_SCOPE = 150
SMALL = "TF-IDF with word pairs, linear SVM"
"""The first member of the cascade."""


@dataclass(frozen=True)
class Intents:
    """The splits; out-of-scope queries have the label 150."""

    train: Examples
    validation: Examples
    test: Examples
    oos_train: Examples
    oos_validation: Examples
    oos_test: Examples

    @property
    def splits(self) -> dict[str, Examples]:
        """What is predicted."""
        return {name: getattr(self, name) for name in ("validation", "test", "oos_validation", "oos_test")}


def read_intents(folder: Path) -> Intents:
    """Read the splits, and leave out of the validation split what stands in the training split too."""
    if not folder.is_dir():
        raise SystemExit(f"There is no {folder}. Give the folder of CLINC150 with --data.")

    def rows(name: str) -> list[dict[str, str]]:
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    classes = {label: index for index, label in enumerate(sorted({row["label"] for row in rows("train")}))}

    def examples(name: str) -> Examples:
        read = rows(name)
        labels = [classes.get(row.get("label", ""), OUT_OF_SCOPE) for row in read]
        return Examples([row["text"] for row in read], torch.tensor(labels))

    train, validation = examples("train"), examples("validation")
    seen = set(train.inputs)
    validation = validation.take(np.array([row for row, text in enumerate(validation.inputs) if text not in seen]))
    check_unseen({"every member": train.fingerprints()}, validation.fingerprints())
    return Intents(train, validation, *map(examples, ("test", "oos_train", "oos_validation", "oos_test")))


Logits = dict[str, Tensor]
"""What a classifier says of each split."""


@dataclass(frozen=True)
class Answers:
    """What a classifier, a member or a combination, says, and what it cost.

    Attributes:
        logits: Scores of each split.
        num_parameters: Parameters that answer, on average over the queries.
        seconds: Training time, its members' included.
    """

    logits: Logits
    num_parameters: float
    seconds: float


def predict(network: nn.Module, intents: Intents) -> Logits:
    return {name: predict_logits(network, examples.inputs) for name, examples in intents.splits.items()}


def count_parameters(network: nn.Module) -> int:
    """Parameters of a network, the coefficients of estimators in it included."""
    estimators: list[Any] = [module.estimator for module in network.modules() if isinstance(module, EstimatorModule)]
    weights = sum(parameter.numel() for parameter in network.parameters())
    return weights + sum(estimator[-1].coef_.size for estimator in estimators)


def answers(network: nn.Module, intents: Intents, started: float) -> Answers:
    return Answers(predict(network, intents), count_parameters(network), time.perf_counter() - started)


# Members, and the ensembles that are trained rather than put together. Each is one job in a process of its own.


def fit_member(name: str, intents: Intents, seed: int, *, with_out_of_scope: bool = False) -> Answers:
    started = time.perf_counter()
    train, num_classes = intents.train, OUT_OF_SCOPE
    if with_out_of_scope:
        num_classes += 1
        labels = torch.cat([train.labels, intents.oos_train.labels])
        train = Examples([*train.inputs, *intents.oos_train.inputs], labels)
    learner = LEARNERS[name](num_classes)
    return answers(learner(train, seed=seed).eval(), intents, started)


def mixture(networks: Sequence[nn.Module], combiner: Combiner) -> ModuleMixture:
    return ModuleMixture([ModuleMember(str(number), network) for number, network in enumerate(networks)], combiner)


def cheap_learner(num_epochs: float) -> NetworkLearner:
    return network_learner(OUT_OF_SCOPE, num_epochs=num_epochs, **NGRAM_LINEAR)


def fit_bag(intents: Intents, seed: int) -> Answers:
    started = time.perf_counter()
    bagged = bag(cheap_learner(6), intents.train, seeds=range(10 * seed, 10 * seed + 5))
    made = answers(mixture(bagged.networks, Average()), intents, started)
    print(f"seed {seed}: the bag's accuracy out of bag is {out_of_bag_accuracy(bagged, intents.train):.4f}", flush=True)
    return made


def fit_adaboost(intents: Intents, seed: int) -> Answers:
    started = time.perf_counter()
    boosted = adaboost(cheap_learner(3), intents.train, num_classes=OUT_OF_SCOPE, num_rounds=5, seed=10 * seed)
    print(f"seed {seed}: SAMME's errors {boosted.losses}, alphas {boosted.weights}", flush=True)
    return answers(mixture(boosted.networks, Additive(boosted.weights)), intents, started)


def fit_gradient_boost(intents: Intents, seed: int) -> Answers:
    started = time.perf_counter()
    boosted = gradient_boost(cheap_learner(4), intents.train, intents.validation, num_rounds=4, seed=10 * seed)
    print(f"seed {seed}: gradient boosting's validation losses {boosted.losses}", flush=True)
    return answers(mixture(boosted.networks, Additive(boosted.weights)), intents, started)


def fit_cycles(intents: Intents, seed: int) -> tuple[list[nn.Module], float]:
    started = time.perf_counter()
    learner = cheap_learner(12)
    network = learner.make(intents.train, seed)
    sampler = sample_examples(network, intents.train, batch_size=BATCH_SIZE, seed=seed)
    options = replace(learner.options, seed=seed)
    snapshots = fit_snapshots(network, sampler, Classification(0.1), options, num_cycles=4)
    return list(snapshots), started


def fit_snapshot_ensemble(intents: Intents, seed: int) -> Answers:
    snapshots, started = fit_cycles(intents, seed)
    return answers(mixture(snapshots, Average()), intents, started)


def fit_soup(intents: Intents, seed: int) -> Answers:
    snapshots, started = fit_cycles(intents, seed)
    return answers(average_parameters(snapshots[1:]), intents, started)


def fit_out_of_fold(intents: Intents, seed: int) -> Answers:
    """Two cheap members, stacked on predictions for the training split: the validation split is not needed."""
    started = time.perf_counter()
    learners: dict[str, Learner] = {"svm": LEARNERS[SMALL](OUT_OF_SCOPE), "n-grams": cheap_learner(4)}
    made = out_of_fold_logits(learners, intents.train, num_folds=3, seed=10 * seed)
    held_out = made.held_out(intents.train)
    temperatures = [fit_temperature(logits, intents.train.labels) for logits in made.member_logits]
    scaled = made.member_logits / torch.tensor(temperatures)[:, None, None]
    held_out = HeldOut.of_examples(scaled, intents.train.labels)
    weights = fit_weights(held_out.target_log_probabilities)
    networks = [learner(intents.train, seed=seed) for learner in learners.values()]
    return answers(mixture(networks, Tempered(Weighted(weights.tolist()), temperatures)), intents, started)


ENSEMBLES = {
    "bagging of 5 (hashed n-grams)": fit_bag,
    "SAMME, 5 rounds (hashed n-grams)": fit_adaboost,
    "gradient boosting (hashed n-grams)": fit_gradient_boost,
    "snapshot ensemble (hashed n-grams)": fit_snapshot_ensemble,
    "average of snapshots' weights (hashed n-grams)": fit_soup,
    "out-of-fold weights (SVM, hashed n-grams)": fit_out_of_fold,
}


# Combinations of members that are there already.


def temper(logits: Logits, intents: Intents) -> Logits:
    temperature = fit_temperature(logits["validation"], intents.validation.labels)
    return {split: scores / temperature for split, scores in logits.items()}


def stack(members: Sequence[Logits]) -> Logits:
    return {split: torch.stack([member[split] for member in members]) for split in members[0]}


@torch.no_grad()
def apply(combiner: Combiner, member_logits: Logits) -> Logits:
    return {split: combine_outputs(combiner, logits).logits for split, logits in member_logits.items()}


def vote(member_logits: Logits) -> Logits:
    """Each member has one vote; where votes are equal the mean probability decides."""
    shares = {}
    for split, logits in member_logits.items():
        votes = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float().mean(dim=0)
        shares[split] = (0.98 * votes + 0.02 * logits.softmax(dim=-1).mean(dim=0)).log()
    return shares


def combine_all(members: Mapping[str, Answers], intents: Intents) -> dict[str, Answers]:
    """Every static combination of the members."""
    raw = stack([member.logits for member in members.values()])
    scaled = stack([temper(member.logits, intents) for member in members.values()])
    held_out = HeldOut.of_examples(scaled["validation"], intents.validation.labels)
    of_targets = held_out.target_log_probabilities
    optimal, greedy = fit_weights(of_targets), select_greedily(of_targets)
    stacked, entropy = Stacked(optimal.tolist()), Entropy(1.0)
    for combiner in (stacked, entropy):
        fit_combiner(combiner, held_out, num_steps=300, batch_size=128)
    made = {
        "mean of probabilities": apply(Average("probability"), raw),
        "mean of log-probabilities": apply(Average("log_probability"), raw),
        "mean of logits": apply(Average("logit"), raw),
        "mean of probabilities, tempered": apply(Average("probability"), scaled),
        "mean of log-probabilities, tempered": apply(Average("log_probability"), scaled),
        "majority vote": vote(scaled),
        "optimal constant weights (EM)": apply(Weighted(optimal.tolist()), scaled),
        "greedy selection": apply(Weighted(greedy.tolist()), scaled),
        "weighted by entropy": apply(entropy, scaled),
        "stacked network": apply(stacked, scaled),
    }
    num_parameters = sum(member.num_parameters for member in members.values())
    seconds = sum(member.seconds for member in members.values())
    combined = {name: Answers(logits, num_parameters, seconds) for name, logits in made.items()}
    whole = combined["mean of log-probabilities, tempered"]
    combined["cascade, small to all"] = cascade(members[SMALL], whole, intents)
    return combined


def cascade(small: Answers, large: Answers, intents: Intents) -> Answers:
    """Ask all members only where the small one is unsure: as rarely as costs no more than 0.2 points of validation."""
    logits = temper(small.logits, intents)
    labels = intents.validation.labels
    sure = logits["validation"].softmax(dim=-1).amax(dim=-1)
    right_small = logits["validation"].argmax(dim=-1) == labels
    right_large = large.logits["validation"].argmax(dim=-1) == labels
    thresholds = sure.sort().values
    accuracies = torch.stack(
        [torch.where(sure < threshold, right_large, right_small).float().mean() for threshold in thresholds]
    )
    enough = accuracies >= right_large.float().mean() - 0.002
    threshold = thresholds[int(enough.nonzero()[0])] if enough.any() else torch.tensor(2.0)
    answered = {}
    for split, scores in logits.items():
        asks = scores.softmax(dim=-1).amax(dim=-1) < threshold
        answered[split] = torch.where(asks[:, None], large.logits[split].log_softmax(-1), scores.log_softmax(-1))
    asked = float((logits["test"].softmax(dim=-1).amax(dim=-1) < threshold).float().mean())
    return Answers(answered, small.num_parameters + asked * large.num_parameters, large.seconds)


# Figures.


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
        "seconds": made.seconds,
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
        digits = 3 if column.startswith("nats") else 1 if column not in ("seconds",) else 0
        row[column] = f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")
        if column == "accuracy":
            row["95% interval"] = f"{runs[0]['low']:.1f}–{runs[0]['high']:.1f}"
    return row


def in_processes(jobs: Mapping[Any, Any], num_processes: int) -> dict[Any, Any]:
    """Run each job in a process of its own, the longest first where they are listed last."""
    listed = list(jobs.items())[::-1]
    results = Parallel(n_jobs=num_processes)(delayed(_one_thread)(job) for _, job in listed)
    made = dict(zip((key for key, _ in listed), results, strict=True))
    return {key: made[key] for key in jobs}


def _one_thread(job: Any) -> Any:
    torch.set_num_threads(1)
    return job()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="The folder of CLINC150.")
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds.")
    parser.add_argument("--processes", type=int, default=2, help="Trainings side by side, one thread each.")
    arguments = parser.parse_args()
    intents = read_intents(arguments.data)
    seeds = range(arguments.seeds)

    jobs: dict[Any, Any] = {}
    for seed in seeds:
        jobs |= {(name, seed): partial(fit, intents, seed) for name, fit in ENSEMBLES.items()}
        fitted = LEARNERS if seed == 0 else NETWORKS
        jobs |= {(name, seed): partial(fit_member, name, intents, seed) for name in fitted}
    jobs |= {(name, "151"): partial(fit_member, name, intents, 0, with_out_of_scope=True) for name in LEARNERS}
    started = time.perf_counter()
    made: dict[Any, Answers] = in_processes(jobs, arguments.processes)
    made |= {(name, seed): made[name, 0] for seed in seeds for name in LEARNERS if name not in NETWORKS}

    runs: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        members = {name: made[name, seed] for name in LEARNERS}
        rows = members | {name: made[name, seed] for name in ENSEMBLES} | combine_all(members, intents)
        for name, row in rows.items():
            runs.setdefault(name, []).append(figures(row, intents))
    every = {f"{name} {seed}": made[name, seed] for seed in seeds for name in NETWORKS}
    every |= {f"{name} 0": made[name, 0] for name in LEARNERS if name not in NETWORKS}
    for name in NETWORKS:
        same = {key: member for key, member in every.items() if key.rsplit(" ", 1)[0] == name}
        runs[f"{len(same)} seeds of {name}"] = [figures(mean_of(same), intents)]
    runs["mean of log-probabilities of all members, all seeds"] = [figures(mean_of(every, tempered=intents), intents)]

    labels = torch.cat([intents.validation.labels, intents.oos_validation.labels])
    inputs = [*intents.validation.inputs, *intents.oos_validation.inputs]
    with_class = {name: with_out_of_scope_validation(made[name, "151"]) for name in LEARNERS}
    by_class_rows = with_class | combine_all(with_class, replace(intents, validation=Examples(inputs, labels)))
    empty = {"class: in scope": "", "class: recall": ""}
    table = []
    for name, run in runs.items():
        known = by_class_rows.get(name)
        shown = {key: f"{value:.1f}" for key, value in by_class(known.logits, intents).items()} if known else empty
        table.append({"method": name} | summarize(run) | shown)
    predictions = torch.stack([made[name, 0].logits["test"].argmax(dim=-1) for name in LEARNERS])
    differ = diversity(predictions, intents.test.labels)
    print(f"members of seed 0: {differ}")
    save(
        "intents",
        table,
        command="python -m benchmarks.intents",
        seeds=list(seeds),
        seconds=round(time.perf_counter() - started),
        disagreement=differ.disagreement,
        error_correlation=differ.error_correlation,
        validation_rows=len(intents.validation),
    )


def mean_of(members: Mapping[str, Answers], tempered: Intents | None = None) -> Answers:
    logits = [member.logits if tempered is None else temper(member.logits, tempered) for member in members.values()]
    return Answers(
        apply(Average("log_probability"), stack(logits)),
        sum(member.num_parameters for member in members.values()),
        sum(member.seconds for member in members.values()),
    )


def with_out_of_scope_validation(made: Answers) -> Answers:
    """The validation split with its out-of-scope queries, for members that have a class for them."""
    joined = torch.cat([made.logits["validation"], made.logits["oos_validation"]])
    return replace(made, logits=made.logits | {"validation": joined})


if __name__ == "__main__":
    main()
