"""Talk with a chat model over several turns, and see which experts answer each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from moesaic.answering import WritingAnswerer, load_answerer
from moesaic.explanation.answer import Answer
from moesaic.members import Decoding, model_folder
from moesaic.tasks import Chat, Message, TaskSet


def chat(
    model: str | Path,
    turns: Iterable[str],
    *,
    fields: Mapping[str, str] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[Answer]:
    """Answer one turn after the other, each with all that was said before.

    Args:
        model: Folder of a run of the task ``chat``, or of a model that such a run has saved.
        turns: What the user says; the next is asked for when the last was answered.
        fields: The row's other fields, such as ``{"system": "Be brief."}``.
        max_new_tokens: Number of tokens of an answer at most.
        temperature: 0 always takes the likeliest token.
        top_k: Number of likeliest tokens that are drawn from; 0 draws from all.
        top_p: The likeliest tokens are drawn from that have this much probability together.
        seed: Makes the random choices, anew for each turn.

    Yields:
        The answers, with the weight of each expert. A turn that is answered with nothing is forgotten.

    Raises:
        CheckpointError: If there is no whole checkpoint.
        DataError: If a turn is empty.
        ValueError: If the model was not trained to chat, or a number is out of range.
    """
    decoding = Decoding(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, batch_size=1, seed=seed
    )
    folder = model_folder(model)
    tasks = TaskSet.load(folder)
    chats = {name: task for name, task in tasks.tasks.items() if isinstance(task, Chat)} if tasks else {}
    if tasks is None or not chats:
        does = "continues text" if tasks is None else f"does {', '.join(tasks.words)}"
        raise ValueError(f"{model}: this model {does}, and does not chat. Use moesaic generate.")
    name, task = next(iter(chats.items()))
    answerer = load_answerer(folder)
    assert isinstance(answerer, WritingAnswerer), "other models are not trained to chat"
    answerer = replace(answerer, decoding=decoding)
    said: list[Message] = []
    for turn in turns:
        asked = [*said, {"role": "user", "content": turn}]
        pair = tasks.ask(name, {**(fields or {}), task.messages_field: asked}, "the conversation")
        [answered] = answerer.answer([pair])
        if answered.text:
            said = [*asked, {"role": "assistant", "content": answered.text}]
        yield Answer(turn, answered.text, dict(answered.shares), continues=False)
