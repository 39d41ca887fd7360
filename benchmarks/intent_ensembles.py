"""The ensembles of :mod:`benchmarks.intents`: those that are trained, each a job of its own, and those put together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.intent_data import OUT_OF_SCOPE, Answers, Intents, Logits, answers
from benchmarks.intent_members import BATCH_SIZE, LEARNERS, NGRAM_LINEAR, make_learner, network_learner
from moesaic.combiners import Additive, Average, Combiner, Entropy, Stacked, Tempered, Weighted
from moesaic.data import Examples
from moesaic.members import ModuleMember
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
    sample_examples,
    select_greedily,
)

SMALL = "TF-IDF with word pairs, linear SVM"
"""The first member of the cascade."""


def fit_member(name: str, intents: Intents, seed: int, *, with_out_of_scope: bool = False) -> Answers:
    started = time.process_time()
    train, num_classes = intents.train, OUT_OF_SCOPE
    if with_out_of_scope:
        num_classes += 1
        labels = torch.cat([train.labels, intents.oos_train.labels])
        train = Examples([*train.inputs, *intents.oos_train.inputs], labels)
    learner = make_learner(name, intents, num_classes)
    return answers(learner(train, seed=seed).eval(), intents, started)


def mixture(networks: Sequence[nn.Module], combiner: Combiner) -> ModuleMixture:
    return ModuleMixture([ModuleMember(str(number), network) for number, network in enumerate(networks)], combiner)


def cheap_learner(num_epochs: float) -> NetworkLearner:
    return network_learner(OUT_OF_SCOPE, num_epochs=num_epochs, **NGRAM_LINEAR)


def fit_bag(intents: Intents, seed: int) -> Answers:
    started = time.process_time()
    bagged = bag(cheap_learner(6), intents.train, seeds=range(10 * seed, 10 * seed + 5))
    made = answers(mixture(bagged.networks, Average()), intents, started)
    print(f"seed {seed}: the bag's accuracy out of bag is {out_of_bag_accuracy(bagged, intents.train):.4f}", flush=True)
    return made


def fit_adaboost(intents: Intents, seed: int) -> Answers:
    started = time.process_time()
    boosted = adaboost(cheap_learner(3), intents.train, num_classes=OUT_OF_SCOPE, num_rounds=5, seed=10 * seed)
    print(f"seed {seed}: SAMME's errors {boosted.losses}, alphas {boosted.weights}", flush=True)
    return answers(mixture(boosted.networks, Additive(boosted.weights)), intents, started)


def fit_gradient_boost(intents: Intents, seed: int) -> Answers:
    started = time.process_time()
    # Targets as they are: a smoothed loss would have the second member take back what the first is sure of.
    learner = replace(cheap_learner(2), objective=Classification())
    boosted = gradient_boost(learner, intents.train, intents.validation, num_rounds=5, seed=10 * seed)
    print(f"seed {seed}: gradient boosting's validation losses {boosted.losses}", flush=True)
    return answers(mixture(boosted.networks, Additive(boosted.weights)), intents, started)


def fit_cycles(intents: Intents, seed: int) -> tuple[list[nn.Module], float]:
    started = time.process_time()
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
    started = time.process_time()
    learners: dict[str, Learner] = {"svm": LEARNERS[SMALL](OUT_OF_SCOPE), "n-grams": cheap_learner(4)}
    made = out_of_fold_logits(learners, intents.train, num_folds=3, seed=10 * seed)
    temperatures = [fit_temperature(logits, intents.train.labels) for logits in made.member_logits]
    scaled = replace(made, member_logits=made.member_logits / torch.tensor(temperatures)[:, None, None])
    weights = fit_weights(scaled.held_out(intents.train).target_log_probabilities)
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


def mean_of(members: Mapping[str, Answers], tempered: Intents | None = None) -> Answers:
    logits = [member.logits if tempered is None else temper(member.logits, tempered) for member in members.values()]
    return Answers(
        apply(Average("log_probability"), stack(logits)),
        sum(member.num_parameters for member in members.values()),
        sum(member.seconds for member in members.values()),
    )
