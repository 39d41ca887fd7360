"""Continue a text, or do a task on it, and say which experts wrote the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moesaic.answering import RoutedWritingAnswerer, WritingAnswerer, load_answerer
from moesaic.data import Pair
from moesaic.experts import fast_decoding
from moesaic.members import Decoding, load_member, model_folder
from moesaic.mixture import Mixture
from moesaic.moe import expert_names, is_sparse, watch_routing
from moesaic.tasks import TaskSet
from moesaic.types import Routing


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        prompt: What it read.
        text: What it wrote.
        shares: Weight that each expert or member had in writing it, by name; empty for a dense model.
        continues: Whether it went on with the prompt, rather than doing a task on it.
    """

    prompt: str
    text: str
    shares: dict[str, float]
    continues: bool = True

    def __str__(self) -> str:
        written = self.prompt + self.text if self.continues else self.text
        if not self.shares:
            return written
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])
        return f"{written}\n\nwritten by " + ", ".join(f"{name} {share:.0%}" for name, share in ranked)


@torch.no_grad()
def generate(
    model: str | Path,
    prompt: str,
    *,
    fields: Mapping[str, str] | None = None,
    task: str | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    num_beams: int = 1,
    seed: int = 0,
) -> Answer:
    """Continue a text with a checkpoint or a finished run's model, or do on it what the model was trained for.

    A run of a task knows its task: the prompt is then the sentence to translate, the document to summarize, or the
    question.

    Args:
        model: Folder of a run, or of a checkpoint.
        prompt: The text to continue, or the main field of a task's row.
        fields: The row's other fields, such as ``{"target_lang": "de"}``; only a model of a task has any.
        task: Which task is asked for, by the name that the recipe gave it; only where a model does several.
        max_new_tokens: Number of tokens to write at most.
        temperature: 0 always takes the likeliest token.
        num_beams: Beams that are searched; only by a model of a task that writes.
        seed: Makes the random choices.

    Returns:
        What was written, and the weight of each expert in it.

    Raises:
        CheckpointError: If there is no whole checkpoint.
        DataError: If the fields do not fit the model's task.
        ValueError: If the checkpoint has no tokenizer, the prompt is empty, there are fields and no task, there is no
            such task, or a model is to write that takes its answers from the text.
    """
    folder = model_folder(model)
    tasks = TaskSet.load(folder)
    if tasks is not None:
        decoding = Decoding(num_beams, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return _do_task(folder, _ask(folder, tasks, task, prompt, fields or {}), decoding)
    member = load_member(model)
    if member.tokenizer is None:
        raise ValueError(f"{model}: there is no tokenizer, so text cannot be read.")
    if fields or num_beams != 1 or task is not None:
        raise ValueError(f"{model}: this model continues text; task, fields and beams are for models of a task.")
    inputs = member.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    if inputs["input_ids"].shape[1] == 0:
        raise ValueError("The prompt is empty; give at least one character.")
    torch.manual_seed(seed)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with fast_decoding(member.network):
        tokens = member.network.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            pad_token_id=member.tokenizer.pad_token_id,
            **sampling,
        )
    num_prompt_tokens = inputs["input_ids"].shape[1]
    text = member.tokenizer.decode(tokens[0, num_prompt_tokens:], skip_special_tokens=True)
    return Answer(prompt, text, _shares(member.network, tokens, num_prompt_tokens))


def _ask(folder: Path, tasks: TaskSet, task: str | None, prompt: str, fields: Mapping[str, str]) -> Pair:
    """What the model reads: a row of the task that is asked for."""
    try:
        name = tasks.name_of(task)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return tasks.ask(name, {tasks.tasks[name].main_field: prompt, **fields}, "the prompt")


def _do_task(folder: Path, asked: Pair, decoding: Decoding) -> Answer:
    answerer = load_answerer(folder)
    if isinstance(answerer, WritingAnswerer | RoutedWritingAnswerer):
        answerer = replace(answerer, decoding=decoding)
    elif decoding.num_beams > 1 or decoding.temperature:
        raise ValueError(
            f"{folder}: this model takes its answers from the text and writes none of its own, so it has no beams and "
            "no temperature. Leave them out."
        )
    [answered] = answerer.answer([asked])
    return Answer(asked.source, answered.text, dict(answered.shares), continues=False)


def _shares(network: Any, tokens: torch.Tensor, num_prompt_tokens: int) -> dict[str, float]:
    """Mean weight of each expert where the new tokens were predicted, over tokens and layers."""
    if isinstance(network, Mixture):
        weights = network(tokens).routing.weights[0, num_prompt_tokens - 1 : -1]
        return dict(zip(network.member_names, weights.mean(0).tolist(), strict=True))
    if not is_sparse(network.config):
        return {}
    routing: Routing = watch_routing(network, tokens)
    weights = routing.weights[:, num_prompt_tokens - 1 : -1].mean(dim=(0, 1))
    return dict(zip(expert_names(network.config), weights.tolist(), strict=True))
