"""Does an expert a domain, chosen by a router, read answers better than one reader trained on all at the same budget?

    python -m benchmarks.question_answering                            # small BERTs from scratch
    python -m benchmarks.question_answering --encoder FOLDER           # from a pretrained encoder

Five domains: XQuAD in English, German and Spanish, COVID-QA and TAT-QA. Whole articles are held out, and for XQuAD the
same ones in all languages. Questions whose answer is not in their context are left out, and counted. Every expert is
trained for the same number of steps, the one reader of all domains for as many as all experts together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, PreTrainedTokenizerBase

from benchmarks.record import save
from moesaic.combiners import Average
from moesaic.data import JsonLines, train_reader_tokenizer
from moesaic.members import ModuleMember, SpanReader, TokenRouter, load_span_reader, read_spans
from moesaic.module_mixture import ModuleMixture
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import (
    Question,
    SpanWindows,
    answer_f1,
    best_spans,
    compare_means,
    count_questions,
    exact_match,
    read_question,
    tokenize_spans,
)
from moesaic.training import (
    Classification,
    TrainingOptions,
    fit,
    sample_span_domains,
    sample_spans,
    span_extraction,
)

FILES = {
    "en": ["xquad/en.jsonl.gz"],
    "de": ["xquad/de.jsonl.gz"],
    "es": ["xquad/es.jsonl.gz"],
    "covid": ["covid_qa/train.jsonl.gz", "covid_qa/test.jsonl.gz"],
    "finance": ["tatqa/dev.jsonl.gz"],
}
HELD_OUT_GROUPS = 6
"""Every one in this many articles is held out, where the data has no test file."""

MAX_LENGTH, STRIDE = 256, 64
BATCH_SIZE = 16

Split = dict[str, list[Question]]


def load(data: Path, max_questions: int | None) -> tuple[Split, Split, dict[str, str]]:
    """Questions to learn from and to be measured on, by domain; and what was found in the files."""
    train: Split = {}
    test: Split = {}
    counts = {}
    for domain, files in FILES.items():
        everything = []
        train[domain], test[domain] = [], []
        for file in files:
            for place, row in JsonLines(data / file).rows():
                question = read_question(row, place)
                everything.append(question)
                held_out = "test" in file if len(files) > 1 else row["group"] % HELD_OUT_GROUPS == 0
                if not question.is_lost:
                    (test if held_out else train)[domain].append(question)
        train[domain], test[domain] = train[domain][:max_questions], test[domain][:max_questions]
        counts[domain] = str(count_questions(everything))
    return train, test, counts


def make_reader(encoder: Path | None, tokenizer: PreTrainedTokenizerBase, seed: int) -> SpanReader:
    torch.manual_seed(seed)
    if encoder is not None:
        return load_span_reader(encoder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
    )
    return SpanReader(BertForQuestionAnswering(config))


def tokenize(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> SpanWindows:
    return tokenize_spans(questions, tokenizer, max_length=MAX_LENGTH, stride=STRIDE)


def train_reader(reader: SpanReader, windows: SpanWindows, options: TrainingOptions) -> SpanReader:
    sampler = sample_spans(windows, batch_size=options.batch_size, seed=options.seed)
    history = fit(reader, sampler, span_extraction, options)
    last = history[-max(1, len(history) // 10) :]
    print(f"  {len(history)} steps, loss {history[0].loss:.2f} to {np.mean([record.loss for record in last]):.2f}")
    return reader


def train_router(train: Split, tokenizer: PreTrainedTokenizerBase, seed: int) -> TokenRouter:
    """Learns which domain a question with the first window of its context is of."""
    questions = [question for of_domain in train.values() for question in of_domain]
    domains = torch.arange(len(train)).repeat_interleave(torch.tensor([len(part) for part in train.values()]))
    router = TokenRouter(len(tokenizer), len(train))
    sampler = sample_span_domains(tokenize(questions, tokenizer), domains, batch_size=64, seed=seed)
    fit(router, sampler, Classification(), TrainingOptions(num_steps=150, batch_size=64, learning_rate=0.05))
    return router


def measure(system: nn.Module, questions: Split, windows: Mapping[str, SpanWindows]) -> dict[str, NDArray[np.float64]]:
    """F1 and exact match of each question, by domain, ``(2, question)``; in percent."""
    found = {}
    for domain, of_domain in questions.items():
        read = read_spans(system, windows[domain])
        answers = best_spans(of_domain, windows[domain], read.log_probabilities)
        pairs = [(answer.text, question.answers) for answer, question in zip(answers, of_domain, strict=True)]
        found[domain] = 100 * np.array([[metric(*pair) for pair in pairs] for metric in (answer_f1, exact_match)])
    return found


def routed_right(mixture: RoutedMixture, windows: Mapping[str, SpanWindows]) -> float:
    """Share of the questions that the router gives to their own domain's expert."""
    right = []
    for index, of_domain in enumerate(windows.values()):
        first = of_domain.first_windows.unique()
        routing = mixture.route(*(part[first] for part in of_domain.inputs))
        right.append((routing.router_logits.argmax(dim=-1) == index).float())
    return float(torch.cat(right).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/qa"))
    parser.add_argument("--encoder", type=Path, help="folder of a pretrained encoder; without it, from scratch")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each expert")
    parser.add_argument("--max-questions", type=int, help="of a domain, to learn from and held out; for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    begun = time.perf_counter()
    train, test, counts = load(options.data, options.max_questions)
    for domain, count in counts.items():
        print(f"{domain}: {count}; {len(train[domain])} to learn from, {len(test[domain])} held out")
    texts = (f"{question.question} {question.context}" for part in train.values() for question in part)
    tokenizer = (
        train_reader_tokenizer(texts, 8000)
        if options.encoder is None
        else AutoTokenizer.from_pretrained(options.encoder)
    )
    windows = {domain: tokenize(questions, tokenizer) for domain, questions in test.items()}

    def training(num_steps: int) -> TrainingOptions:
        learning_rate = 1e-3 if options.encoder is None else 2e-4
        warmup = min(50, num_steps // 10)
        return TrainingOptions(
            num_steps, BATCH_SIZE, MAX_LENGTH, learning_rate, num_warmup_steps=warmup, seed=options.seed
        )

    members = []
    for domain, questions in train.items():
        print(f"expert {domain}")
        reader = make_reader(options.encoder, tokenizer, options.seed)
        members.append(
            ModuleMember(domain, train_reader(reader, tokenize(questions, tokenizer), training(options.steps)))
        )
    print("one reader of all domains")
    everything = [question for questions in train.values() for question in questions]
    pooled = train_reader(
        make_reader(options.encoder, tokenizer, options.seed),
        tokenize(everything, tokenizer),
        training(options.steps * len(train)),
    )
    routed = RoutedMixture(members, train_router(train, tokenizer, options.seed), top_k=1)

    systems: dict[str, nn.Module] = {f"expert {member.name}": member.network for member in members}
    systems |= {
        "one reader of all": pooled,
        "uniform": ModuleMixture(members, Average("probability")),
        "routed, one expert a question": routed,
    }
    scores = {name: measure(system, test, windows) for name, system in systems.items()}
    scores["oracle-routed"] = {domain: scores[f"expert {domain}"][domain] for domain in test}
    rows = [
        {"reader": name, **{domain: f"{f1.mean():.1f} / {match.mean():.1f}" for domain, (f1, match) in found.items()}}
        | {"mean F1": float(np.mean([f1.mean() for f1, _ in found.values()]))}
        for name, found in scores.items()
    ]
    per_question = {name: np.concatenate([f1 for f1, _ in found.values()]) for name, found in scores.items()}
    compared = compare_means(per_question, baseline="one reader of all", num_resamples=2000)
    p_value = compared["routed, one expert a question"].p_value
    right = routed_right(routed, windows)
    print(f"The router gives {right:.1%} of the questions to their own expert.")
    print(f"Routed against one reader of all, over all questions: p = {p_value:.4f}")
    start = "scratch" if options.encoder is None else "pretrained"
    save(
        f"question-answering-{start}",
        rows,
        cells="F1 / exact match, in percent",
        steps=options.steps,
        seed=options.seed,
        counts=counts,
        router_accuracy=right,
        p_value_routed_against_one_reader=p_value,
        seconds=round(time.perf_counter() - begun),
    )


if __name__ == "__main__":
    main()
