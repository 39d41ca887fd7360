"""What every kind of model is to the road of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from moesaic.answering import Answerer, read_description
from moesaic.data import Pair, PairDomain, Sampler, read_pair
from moesaic.errors import CheckpointError
from moesaic.members import model_folder
from moesaic.recipe.build import resolve_checkpoint
from moesaic.recipe.task_schema import TaskRecipe, TaskTrainingSection
from moesaic.tasks import TaskSet
from moesaic.training import Objective, TrainingOptions


class Fit(Protocol):
    """Trains a network in place, with the stage's progress and checkpoints."""

    def __call__(
        self, network: nn.Module, sampler: Sampler, objective: Objective, options: TrainingOptions, part: str = ""
    ) -> None:
        """Train a network.

        Args:
            network: What is trained.
            sampler: Gives the batch of each step.
            objective: What is minimized.
            options: How.
            part: Which of a stage's networks it is, where there are several.
        """
        ...


@dataclass(frozen=True)
class ModelKind(ABC):
    """A kind of model: how it is prepared for, trained, combined and read back; its :class:`Answerer` does the rest.

    Attributes:
        recipe: The recipe.
        recipe_folder: The folder that its paths start at.
        data: The data stage's folder.
    """

    library: ClassVar[str] = "moesaic"
    """What loads a saved one, as model cards name it."""

    answerer: ClassVar[type[Answerer]]
    """What trained models are."""

    recipe: TaskRecipe
    recipe_folder: Path
    data: Path

    @property
    def data_settings(self) -> Mapping[str, Any]:
        """What :meth:`prepare` depends on beside the recipe's `data` and `task`, as JSON values."""
        return {}

    @abstractmethod
    def count_parameters(self) -> int | None:
        """Parameters of a new model, at most; ``None`` where the data decide."""

    def note(self, pairs: Sequence[Pair]) -> str:
        """What a person should know of some pairs before models of this kind learn from them; mostly nothing."""
        return ""

    @abstractmethod
    def prepare(self, domains: Sequence[PairDomain], tasks: TaskSet, output: Path) -> Iterator[str]:
        """Write what models read of all splits.

        Args:
            domains: The pairs.
            tasks: What models do, with what it took from the training pairs.
            output: The data stage's folder while it is not finished.

        Yields:
            What the run says of it, line by line.
        """

    @abstractmethod
    def train(
        self,
        domains: Sequence[int],
        section: TaskTrainingSection,
        seed: int,
        fit: Fit,
        start: Answerer | None = None,
    ) -> Answerer:
        """Train a model.

        Args:
            domains: Numbers of the domains that it learns from.
            section: How long and how.
            seed: Makes its weights and the order of its rows.
            fit: Does it.
            start: What it starts as, which is changed in place; a new model if not given.
        """

    @abstractmethod
    def train_router(self, experts: Mapping[str, Answerer], fit: Fit) -> Answerer:
        """Train a router that chooses one expert for each row; the experts stay as they are.

        Args:
            experts: By name, in the order of the domains.
            fit: Does it.

        Returns:
            The mixture.
        """

    @abstractmethod
    def train_jointly(self, mixture: Answerer, fit: Fit) -> Answerer:
        """Train experts and router together, from what :meth:`train_router` returned."""

    @abstractmethod
    def average(self, members: Mapping[str, Answerer], domains: Sequence[int]) -> Answerer:
        """All members together, each counting the same.

        Args:
            members: By name.
            domains: Numbers of the domains that they will be asked about.
        """

    def check(self, place: str | Path) -> Path:
        """Make sure that what a recipe gives as an expert is of this kind, without loading it.

        Args:
            place: A folder, or a Hub name.

        Returns:
            Its folder.

        Raises:
            CheckpointError: If it is of another kind, or there is none.
        """
        folder = model_folder(place)
        kind, own = read_description(folder)["type"], self.answerer.word
        if kind != own:
            raise CheckpointError(
                f"{folder}: this is a model of the kind {kind!r}, and those of this recipe are of the kind {own!r}. "
                f"Give what a recipe with `model: {{type: {self.recipe.model.type}}}` has trained."
            )
        return folder

    def load(self, place: str | Path) -> Answerer:
        """A model that a stage has saved, or that the recipe gives.

        Raises:
            CheckpointError: If there is none, it is damaged, or it is of another kind.
        """
        return self.answerer.load(self.check(place))

    def load_all(self, places: Mapping[str, str | Path]) -> dict[str, Answerer]:
        """Several such models by name; what they share is held once."""
        return {name: self.load(place) for name, place in places.items()}

    @property
    def given_checkpoints(self) -> dict[str, str]:
        """Where the checkpoints are that the recipe gives, by the key that gives each; none where it gives none."""
        return {
            f"experts.checkpoints, {name}": resolve_checkpoint(place, self.recipe_folder)
            for name, place in self.recipe.experts.checkpoints.items()
        }

    @property
    def can_average(self) -> bool:
        """Whether several of them can answer together (:meth:`average`)."""
        return True

    def pairs(self, domain: int, split: str) -> list[Pair]:
        """The pairs of a domain's split."""
        return read_pairs(self.data, self.recipe.domain_names[domain], split)


def read_pairs(data: Path, domain: str, split: str) -> list[Pair]:
    """The pairs of a domain's split, from the data stage's folder."""
    text = (data / f"{domain}.{split}.jsonl").read_text(encoding="utf-8")
    # Not splitlines: some texts contain other separators.
    return [read_pair(line) for line in text.split("\n") if line]
