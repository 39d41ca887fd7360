"""What the stages of trained ensembles do: bagging, deep ensembles, boosting, snapshots, stackers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from moesaic.combiners import (
    Average,
    Clustered,
    Combiner,
    DomainWeighted,
    Entropy,
    Hard,
    Routed,
    Stacked,
    Tempered,
    TopK,
    TopP,
    Weighted,
    build_combiner,
)
from moesaic.data import NOT_SCORED, BatchSampler, Clusters, center_groups, check_unseen, document_fingerprints
from moesaic.moe import save_model
from moesaic.recipe.build import build_options, build_seed, ensemble_training
from moesaic.recipe.progress import over_rounds, training_progress
from moesaic.recipe.work import Work
from moesaic.tasks import fit_temperature
from moesaic.training import (
    BoostingMethod,
    DocumentSample,
    HeldOut,
    OnStep,
    TrainingOptions,
    add_up,
    boost,
    collect_held_out,
    fit_combiner,
    fit_snapshots,
    fit_weights,
    is_main,
    join_held_out,
    language_modeling,
    out_of_bag_nats,
    sample_documents,
    select_greedily,
)

_MEMBER_SEED = 7_919
"""What lies between the random seeds of two members, so that runs with neighbouring seeds share none."""

ROUNDS = "rounds"


def train_bagged(work: Work, number: int, output: Path) -> None:
    """Train one bagged member, on its bootstrap sample of every domain's documents."""
    options = _member_options(work, number)
    sampler = BatchSampler(_sample(work, number).domains, options.batch_size, options.sequence_length, options.seed)
    work.train(_start(work, options.seed), output, f"bagging-{number}", options, language_modeling, sampler)


def train_apart(work: Work, number: int, output: Path) -> None:
    """Train one member of a deep ensemble: all documents, random choices of its own."""
    options = _member_options(work, number)
    work.train(_start(work, options.seed), output, f"deep-{number}", options, language_modeling, work.sampler(options))


def _member_options(work: Work, number: int) -> TrainingOptions:
    section = ensemble_training(work.recipe, work.recipe.ensembles.bagging.num_members)
    options = build_options(section, work.recipe)
    return replace(options, seed=options.seed + _MEMBER_SEED * number)


def _sample(work: Work, number: int) -> DocumentSample:
    options = _member_options(work, number)
    return sample_documents(
        [domain.train for domain in work.domains],
        seed=options.seed,
        batch_tokens=options.tokens_per_step,
        sequence_length=options.sequence_length,
        max_samples=work.recipe.ensembles.bagging.max_samples,
    )


def score_out_of_bag(work: Work, output: Path) -> None:
    """Estimate the bag's loss on unseen text from the documents that its members did not draw."""
    numbers = range(1, work.recipe.ensembles.bagging.num_members + 1)
    nats = out_of_bag_nats(
        [work.load_stage(f"bagging-{number}") for number in numbers],
        [_sample(work, number) for number in numbers],
        [domain.train for domain in work.domains],
        sequence_length=work.recipe.data.sequence_length,
    )
    work.say(f"  out of bag {nats:.3f} nats per token")
    (output / "out_of_bag.json").write_text(json.dumps({"nats_per_token": nats}))


def train_boosting(work: Work, method: BoostingMethod, output: Path) -> None:
    """Train the rounds of boosting and save their sum as one mixture."""
    section = work.recipe.ensembles.boosting
    options = build_options(ensemble_training(work.recipe, section.num_rounds), work.recipe)
    with _progress(
        work, "boosting" if method == "stagewise" else "reweighting", options, section.num_rounds
    ) as on_step:
        boosted = boost(
            lambda number: _start(work, options.seed + _MEMBER_SEED * number),
            work.sampler(options),
            options,
            work.validation_blocks(),
            num_rounds=section.num_rounds,
            method=method,
            shrinkage=section.shrinkage,
            folder=output / ROUNDS,
            on_step=on_step,
        )
    steps = ", ".join(f"{weight:.2f}" for weight in boosted.weights)
    losses = ", ".join(f"{nats:.3f}" for nats in boosted.validation_nats)
    work.say(f"  step sizes {steps}; loss on validation text after each round {losses}")
    if is_main():
        add_up([network.cpu() for network in boosted.networks], boosted.weights).save_pretrained(output / "model")
        shutil.rmtree(output / ROUNDS, ignore_errors=True)


def train_snapshots(work: Work, output: Path) -> None:
    """Train once in cycles and save the model at the end of each."""
    options = build_options(ensemble_training(work.recipe, 1), work.recipe)
    with _progress(work, "snapshots", options, 1) as on_step:
        snapshots = fit_snapshots(
            _start(work, options.seed),
            work.sampler(options),
            language_modeling,
            options,
            num_cycles=work.recipe.ensembles.num_snapshots,
            folder=output / ROUNDS,
            on_step=on_step,
        )
    if is_main():
        for number, snapshot in enumerate(snapshots, start=1):
            save_model(snapshot.cpu(), output / f"model-{number}")
        shutil.rmtree(output / ROUNDS, ignore_errors=True)


@contextmanager
def _progress(work: Work, title: str, options: TrainingOptions, num_rounds: int) -> Iterator[OnStep]:
    whole = replace(options, num_steps=options.num_steps * num_rounds)
    events = work.folder.path / "tensorboard" / title
    with training_progress(title, whole, work.console, events) as on_step:
        yield over_rounds(on_step, options.tokens_per_step)


def _start(work: Work, seed: int) -> PreTrainedModel:
    if work.recipe.ensembles.start == "seed":
        return work.load_stage("seed")
    return build_seed(work.recipe.seed, work.tokenizer, work.recipe.data.sequence_length, seed)


STACKERS: dict[str, str] = {
    "weighted": "weighted average (EM)",
    "weighted_log": "weighted log-probability average",
    "greedy": "greedy selection",
    "domain_weighted": "weighted by domain (EM)",
    "entropy": "weighted by entropy",
    "tempered": "tempered average",
    "stacked": "stacked network",
    "stacked_memory": "stacked network with memory",
    "routed": "router at logits",
    "routed_top_k": "router at logits, top 2",
    "routed_top_p": "router at logits, top-p 0.9",
    "routed_hard": "router at logits, one member",
    "clustered": "nearest cluster (c-BTM)",
}
"""Combiners that are fitted on validation text: their words, and what tables call them."""


def fit_stackers(work: Work, output: Path) -> None:
    """Fit every stacker on what the experts say of text that none of them was trained on."""
    blocks = work.validation_blocks()
    check_unseen(*_documents(work))
    held_out = collect_held_out([expert.network for expert in work.experts], blocks)
    for word, make in _stackers(work, held_out).items():
        combiner = make()
        folder = output / word
        folder.mkdir(exist_ok=True)
        (folder / "combiner.json").write_text(json.dumps({"type": combiner.word, **combiner.arguments()}))
        save_file(combiner.state_dict(), folder / "combiner.safetensors")


def load_stacker(work: Work, word: str) -> Combiner:
    """A combiner that :func:`fit_stackers` fitted."""
    folder = work.folder.stage_folder("stackers") / word
    combiner = build_combiner(**json.loads((folder / "combiner.json").read_text()))
    combiner.attach(len(work.experts), work.vocab_size)
    combiner.load_state_dict(load_file(folder / "combiner.safetensors"))
    return combiner


def _documents(work: Work) -> tuple[dict[str, frozenset[bytes]], frozenset[bytes]]:
    """What each expert has read, and what the stackers are to be fitted on; nothing is known of given checkpoints."""
    held_out = frozenset().union(*(document_fingerprints(domain.validation) for domain in work.domains))
    if work.recipe.experts.checkpoints:
        return {}, held_out
    seed = frozenset().union(*(document_fingerprints(domain.train) for domain in work.domains))
    return {domain.name: seed for domain in work.domains}, held_out


def _stackers(work: Work, held_out: dict[str, HeldOut]) -> dict[str, Callable[[], Combiner]]:
    section, seed = work.recipe.ensembles.stacking, work.recipe.random_seed
    rows = join_held_out(list(held_out.values()))
    targets = rows.target_log_probabilities, rows.target_weights
    weights = fit_weights(*targets).tolist()

    def trained(combiner: Combiner) -> Combiner:
        fit_combiner(combiner, rows, num_steps=section.num_steps, learning_rate=section.learning_rate, seed=seed)
        return combiner

    return {
        "weighted": lambda: _attached(Weighted(weights), rows),
        "weighted_log": lambda: trained(Weighted(weights, "log_probability")),
        "greedy": lambda: _attached(Weighted(select_greedily(*targets).tolist()), rows),
        "domain_weighted": lambda: _attached(
            DomainWeighted([fit_weights(part.target_log_probabilities).tolist() for part in held_out.values()]), rows
        ),
        "entropy": lambda: trained(Entropy()),
        "tempered": lambda: _attached(Tempered(Average(), _temperatures(rows)), rows),
        "stacked": lambda: trained(Stacked(weights, seed=seed)),
        "stacked_memory": lambda: trained(Stacked(weights, forgetting=section.forgetting, seed=seed)),
        "routed": lambda: trained(Routed(seed=seed)),
        "routed_top_k": lambda: trained(Routed(choice=TopK(2), seed=seed)),
        "routed_top_p": lambda: trained(Routed(choice=TopP(0.9), seed=seed)),
        "routed_hard": lambda: trained(Routed(choice=Hard(), seed=seed)),
        "clustered": lambda: trained(Clustered.of(_clusters(work))),
    }


def _clusters(work: Work) -> Clusters:
    """The center of each domain's documents."""
    groups = [domain.train.documents() for domain in work.domains]
    return center_groups(groups, vocab_size=work.vocab_size, seed=work.recipe.random_seed)


def _attached(combiner: Combiner, rows: HeldOut) -> Combiner:
    combiner.attach(len(rows.member_logits), rows.member_logits.shape[-1])
    return combiner


def _temperatures(rows: HeldOut) -> list[float]:
    """Each member's own temperature on the held-out rows."""
    scored = rows.labels != NOT_SCORED
    return [fit_temperature(logits[scored], rows.labels[scored]) for logits in rows.member_logits]
