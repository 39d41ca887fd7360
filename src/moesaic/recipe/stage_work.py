"""What the work of every road has in common: a recipe, a folder, and networks that are trained and saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Generic, TypeVar

from rich.console import Console
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from moesaic.data import Sampler
from moesaic.members import adapter_names, load_network, merge_adapter, save_adapter
from moesaic.moe import save_model
from moesaic.recipe.build import resolve_checkpoint
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.load import LoadedRecipe
from moesaic.recipe.progress import training_progress
from moesaic.recipe.schema import Section
from moesaic.training import Objective, TrainingOptions, fit, is_main
from moesaic.training.options import scale_of

SPLITS = ("train", "validation", "test")
HISTORY = "history.json"
CHECKPOINTS = "checkpoints"
TABLE = "table.json"

_Recipe = TypeVar("_Recipe", bound=Section)


@dataclass(frozen=True)
class StageWork(Generic[_Recipe]):
    """The work of one recipe in one run folder.

    Attributes:
        loaded: The recipe.
        folder: The run's folder.
        console: Where progress is shown.
    """

    loaded: LoadedRecipe[_Recipe]
    folder: RunFolder
    console: Console

    @property
    def recipe(self) -> _Recipe:
        """What the recipe says."""
        return self.loaded.recipe

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that all models share."""
        return AutoTokenizer.from_pretrained(self.folder.stage_folder("data") / "tokenizer")

    def train(
        self,
        network: PreTrainedModel,
        output: Path,
        title: str,
        options: TrainingOptions,
        objective: Objective,
        sampler: Sampler,
    ) -> None:
        """Train a network and save it with its history; adapters are merged into it.

        An adapter is saved by itself too, where all else stayed as it was.
        """
        self.fit(network, output, title, options, objective, sampler)
        if is_main():
            network = network.cpu()
            for name in adapter_names(network):
                if _trains_adapters_alone(network, options.learning_rate_scales):
                    save_adapter(network, name, output / "adapter")
                network = merge_adapter(network, name)
            save_model(network, output / "model")
            self.tokenizer.save_pretrained(output / "model")
            self.forget_checkpoints(output)

    def fit(
        self,
        network: nn.Module,
        output: Path,
        title: str,
        options: TrainingOptions,
        objective: Objective,
        sampler: Sampler,
        part: str = "",
    ) -> None:
        """Train a network in place, and write its history; a stage that trains several names the parts."""
        ending = f"-{part}" if part else ""
        checkpoints = output / CHECKPOINTS / part
        events = self.folder.path / "tensorboard" / f"{title}{ending}"
        with training_progress(f"{title}{ending}", options, self.console, events) as on_step:
            history = fit(network, sampler, objective, options, checkpoint_folder=checkpoints, on_step=on_step)
        network.cpu()
        if is_main():
            records = json.dumps([asdict(record) for record in history])
            (output / (f"history{ending}.json" if part else HISTORY)).write_text(records)

    @staticmethod
    def forget_checkpoints(output: Path) -> None:
        """Remove what a finished stage would have continued from."""
        shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)

    def resolve(self, checkpoint: str) -> str:
        """Where a checkpoint of the recipe is."""
        return resolve_checkpoint(checkpoint, self.loaded.path.parent)

    def history(self, stage: str) -> list[dict[str, Any]]:
        """The records of a finished training stage."""
        return json.loads((self.folder.stage_folder(stage) / HISTORY).read_text())

    def load_stage(self, stage: str) -> PreTrainedModel:
        """The model that a finished stage made."""
        return load_network(self.folder.stage_folder(stage) / "model")

    def say(self, line: str) -> None:
        """Show a line."""
        if is_main():
            self.console.print(line, highlight=False)


def _trains_adapters_alone(network: nn.Module, scales: Mapping[str, float]) -> bool:
    """Whether a model's own weights stay as they were, so that its adapters fit the model that it was."""
    return all(".lora_" in name or scale_of(name, scales) == 0 for name, _ in network.named_parameters())


def versions() -> Mapping[str, str]:
    """What this process runs on."""
    packages = ("moesaic", "torch", "transformers")
    return {"Python": python_version()} | {package: version(package) for package in packages}
