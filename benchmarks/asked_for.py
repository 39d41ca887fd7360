"""Does a source reach the expert of the language that it asks for, whatever it is about?

    python -m benchmarks.asked_for recipes/translation.yaml

Trains the router of a translation recipe, which takes seconds, once with a router for each target language, as recipes
have it, and once with one router that reads the language's tag like any other token. Then the test sentences of
every pair ask for the languages of all pairs, though training had them in one language each or in few.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.record import save
from moesaic import Seq2SeqMixture, run
from moesaic.combiners import BySource, Hard
from moesaic.data import PairSampler, TokenizedPairs, pad, telling_tokens
from moesaic.members import Seq2SeqLM
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.kinds.writing import EncoderDecoderKind
from moesaic.recipe.load import load_recipe
from moesaic.recipe.task_build import build_task_options
from moesaic.recipe.task_work import TaskWork
from moesaic.tasks import Translation
from moesaic.training import ROUTER_ONLY, SourceRouting, fit


def train_router(work: TaskWork, task_tokens: Sequence[int], seed: int) -> BySource:
    """The router of the recipe; its members are not asked, so they may as well be untrained."""
    kind, recipe = work.kind, work.recipe
    assert isinstance(kind, EncoderDecoderKind)
    names, section = recipe.domain_names, recipe.router.training
    members = [Seq2SeqLM(name, kind.start([index]), kind.tokenizer) for index, name in enumerate(names)]
    combiner = BySource(choice=Hard(), router_width=recipe.router.width, seed=seed, task_tokens=task_tokens)
    mixture = Seq2SeqMixture(members, combiner)
    pairs = [TokenizedPairs.load(kind.data / f"{name}.train.safetensors") for name in names]
    sampler = PairSampler(pairs, section.batch_size, kind.tokenizer.pad_token_id, seed)
    fit(mixture, sampler, SourceRouting(), build_task_options(section, seed, sequence_length=1, scales=ROUTER_ONLY))
    return combiner.eval()


@torch.no_grad()
def count_right(work: TaskWork, router: BySource, domain: str, prompt: str, expert: int) -> float:
    """The share of a domain's test sentences that reach an expert, asked for with its prompt."""
    sentences = [pair.source.split("> ", 1)[1] for pair in work.pairs(domain)]
    kind = work.kind
    assert isinstance(kind, EncoderDecoderKind)
    rows = kind.tokenizer([prompt + sentence for sentence in sentences], verbose=False)["input_ids"]
    source_ids, mask = pad([torch.tensor(row) for row in rows], kind.tokenizer.pad_token_id)
    chosen = router.route_source(source_ids, mask.bool()).weights.argmax(dim=-1)
    return chosen.eq(expert).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="A recipe of translation, a language a domain.")
    parser.add_argument("--run", type=Path, help="The run's folder; runs/NAME-OF-RECIPE if not given.")
    parser.add_argument("--num-seeds", type=int, default=3)
    arguments = parser.parse_args()
    place = arguments.run or Path("runs") / arguments.recipe.stem
    run(arguments.recipe, folder=place, until="data")
    work = TaskWork(load_recipe(arguments.recipe), RunFolder(place), Console(quiet=True))
    [task], kind = work.tasks.tasks.values(), work.kind
    assert isinstance(task, Translation) and isinstance(kind, EncoderDecoderKind)
    prompts = dict(zip(task.target_languages or (), task.prompts, strict=True))
    own = {name: work.pairs(name)[0].source.split(">", 1)[0].removeprefix("<2") for name in work.recipe.domain_names}
    tokens = telling_tokens(task.prompts, kind.tokenizer)
    rows = []
    for title, task_tokens in (("one for all languages", []), ("one for each language", tokens)):
        routers = [train_router(work, task_tokens, seed) for seed in range(arguments.num_seeds)]
        for domain in own:
            row = {"router": title, "test sentences of": domain}
            for expert, (name, language) in enumerate(own.items()):
                shares = [count_right(work, router, domain, prompts[language], expert) for router in routers]
                spread = f" ({min(shares):.1%} to {max(shares):.1%})" if max(shares) > min(shares) else ""
                row[f"asked for {language}: reach {name}"] = f"{statistics.mean(shares):.1%}{spread}"
            rows.append(row)
    command = f"asked_for {arguments.recipe.as_posix()}"
    save("asked_for", rows, command=command, num_seeds=arguments.num_seeds)


if __name__ == "__main__":
    main()
