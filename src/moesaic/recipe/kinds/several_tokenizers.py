"""Models that start from checkpoints of different tokenizers: each writes in its own, and they meet at text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from moesaic.answering import Answerer, RoutedWritingAnswerer, WritingAnswerer, router_text
from moesaic.data import Examples, PairDomain
from moesaic.errors import CheckpointError, RecipeError
from moesaic.members import load_network, load_tokenizer, make_text_classifier, model_folder
from moesaic.recipe.kinds.checkpoint import CheckpointKind
from moesaic.recipe.kinds.kind import Fit, ModelKind
from moesaic.recipe.task_build import build_task_options
from moesaic.recipe.task_schema import TaskTrainingSection
from moesaic.recipe.task_sections import TranslationSection
from moesaic.tasks import TaskSet
from moesaic.training import Classification, sample_examples

_ROUTER_BUCKETS = 2**14
"""Numbers that a router's n-grams are hashed to."""


@dataclass(frozen=True)
class SeveralTokenizersKind(ModelKind):
    """A kind for each checkpoint, and a router over text that chooses one expert for each source.

    Nothing is averaged and nothing trained jointly here, since the experts' tokens are not the same ones.
    """

    answerer: ClassVar[type[Answerer]] = RoutedWritingAnswerer

    @cached_property
    def parts(self) -> dict[str, CheckpointKind]:
        """A kind for each checkpoint, by where that is; each has a data folder of its own."""
        model = self.recipe.model
        places = dict.fromkeys(self.given_checkpoints.values())
        return {
            place: CheckpointKind(
                self.recipe.model_copy(update={"model": model.model_copy(update={"name": place, "names": {}})}),
                self.recipe_folder,
                self.data / f"checkpoint-{number}",
            )
            for number, place in enumerate(places)
        }

    @property
    def _whole(self) -> CheckpointKind:
        return CheckpointKind(self.recipe, self.recipe_folder, self.data)

    @property
    def given_checkpoints(self) -> dict[str, str]:
        """See :attr:`ModelKind.given_checkpoints`."""
        return self._whole.given_checkpoints

    @property
    def data_settings(self) -> Mapping[str, Any]:
        """See :attr:`ModelKind.data_settings`."""
        return self._whole.data_settings

    @property
    def can_average(self) -> bool:
        """See :attr:`ModelKind.can_average`."""
        return False

    def count_parameters(self) -> int:
        """See :meth:`ModelKind.count_parameters`; of the largest checkpoint."""
        return self._whole.count_parameters()

    def check(self, place: str | Path) -> Path:
        """See :meth:`ModelKind.check`."""
        return self.parts[str(place)].check(place)

    def prepare(self, domains: Sequence[PairDomain], tasks: TaskSet, output: Path) -> Iterator[str]:
        """See :meth:`ModelKind.prepare`: the tokens of what each checkpoint will learn from."""
        everything = range(len(domains))
        yield "the experts do not share what they read, so they meet at text: one writes each answer"
        for place, part in self.parts.items():
            own = [index for index in everything if self._whole.place_of([index]) == place]
            is_dense = self.recipe.has_dense and self._whole.place_of(everything) == place
            learned = [domains[index] for index in (everything if is_dense else own)]
            for line in part.prepare(learned, tasks, output / part.data.name):
                yield f"{Path(place).name}: {line}"

    def train(
        self,
        domains: Sequence[int],
        section: TaskTrainingSection,
        seed: int,
        fit: Fit,
        start: Answerer | None = None,
    ) -> Answerer:
        """See :meth:`ModelKind.train`."""
        return self.parts[self._whole.place_of(domains)].train(domains, section, seed, fit, start)

    def train_router(self, experts: Mapping[str, Answerer], fit: Fit) -> Answerer:
        """See :meth:`ModelKind.train_router`: a linear classifier of the n-grams of what is asked."""
        section, seed = self.recipe.router.training, self.recipe.random_seed
        domains = [self.pairs(index, "train") for index in range(len(experts))]
        texts = [router_text(pair) for domain in domains for pair in domain]
        encoder = {"pair_prefix": 0, "num_buckets": _ROUTER_BUCKETS}
        classifier = make_text_classifier("ngram_linear", texts, num_classes=len(experts), seed=seed, encoder=encoder)
        labels = torch.tensor([index for index, domain in enumerate(domains) for _ in domain])
        sampler = sample_examples(classifier, Examples(texts, labels), batch_size=section.batch_size, seed=seed)
        mean_words = round(sum(len(text.split()) for text in texts) / len(texts))
        fit(classifier, sampler, Classification(), build_task_options(section, seed, sequence_length=mean_words))
        writers = {name: expert for name, expert in experts.items() if isinstance(expert, WritingAnswerer)}
        languages = [{pair.details["language"] for pair in domain if "language" in pair.details} for domain in domains]
        learned = {name: sorted(own) for name, own in zip(experts, languages, strict=True)}
        return RoutedWritingAnswerer.combine(writers, classifier, learned)

    def train_jointly(self, mixture: Answerer, fit: Fit) -> Answerer:
        """Refused where the recipe is read; see :func:`meet_at_text`."""
        raise AssertionError("members that meet at text are not trained jointly")

    def average(self, members: Mapping[str, Answerer], domains: Sequence[int]) -> Answerer:
        """Not asked for; see :attr:`can_average`."""
        raise AssertionError("members that meet at text are not averaged")

    def load(self, place: str | Path) -> Answerer:
        """See :meth:`ModelKind.load`; an expert reads with the tokenizer beside it."""
        folder, decoding = model_folder(place), next(iter(self.parts.values())).decoding
        if (folder / "members").is_dir():
            return replace(RoutedWritingAnswerer.load(folder), decoding=decoding)
        tokenizer = load_tokenizer(folder)
        tokenizer.model_max_length = self.recipe.data.max_source_tokens
        return WritingAnswerer(load_network(folder), tokenizer, decoding)


def meet_at_text(kind: CheckpointKind) -> bool:
    """Whether experts that start from these checkpoints can only meet at text.

    That is so where their tokenizers differ, and where a source's tokens do not say into which language it is to be
    translated: each checkpoint knows one, or is told by its decoder's first token. Checkpoints that cannot be read are
    left to :meth:`ModelKind.check`, which says what is wrong with them.

    Raises:
        RecipeError: If they meet at text, and are to be trained jointly or as adapters.
    """
    if not (_is_untold(kind) or _tokenizers_differ(kind)):
        return False
    why = "their tokenizers differ, or task.template has no {language}"
    if kind.recipe.joint.num_steps:
        raise RecipeError(
            "joint.num_steps: experts that start from these checkpoints meet at text, where nothing can be trained "
            f"jointly: {why}. Set it to 0, or give checkpoints that read the same tokens."
        )
    if kind.section.adapter is not None:
        raise RecipeError(
            f"model.adapter: these experts meet at text, where adapters do not share their checkpoint: {why}. Leave it "
            "out, or put {language} into task.template."
        )
    return True


def _is_untold(kind: CheckpointKind) -> bool:
    translations = [task for task in kind.recipe.named_tasks.values() if isinstance(task, TranslationSection)]
    untold = [task for task in translations if "{language}" not in task.template]
    return any(kind.section.names or task.target_token for task in untold)


def _tokenizers_differ(kind: CheckpointKind) -> bool:
    if not kind.section.names:
        return False
    try:
        folders = [model_folder(place) for place in kind.given_checkpoints.values()]
        first, *others = [load_tokenizer(folder).get_vocab() for folder in folders]
    except CheckpointError:
        return False
    return any(vocabulary != first for vocabulary in others)
