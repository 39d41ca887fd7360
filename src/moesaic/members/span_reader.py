"""An encoder with a span head as a member: it reads a question with a window of text, and says where the answer is."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForQuestionAnswering, PretrainedConfig, PreTrainedModel

from moesaic.errors import CheckpointError
from moesaic.members.causal_lm import quiet_transformers
from moesaic.members.checkpoints import read_checkpoint
from moesaic.tasks import SpanWindows

_RULED_OUT = -1e4
"""Score of a position where no answer can be: its probability is zero, and gradients stay numbers."""


class SpanReader(nn.Module):
    """An encoder with a span head, whose outputs can be mixed with those of others that share its tokenizer.

    Its outputs are one distribution over ``2 * length`` places: half of the probability is where the answer begins,
    half where it ends. A weighted sum of such distributions has sums of the halves for its halves, so every combiner
    that mixes class probabilities mixes readers, too: :class:`moesaic.ModuleMixture`, :class:`moesaic.RoutedMixture`.

    Args:
        network: Any model of Transformers' ``AutoModelForQuestionAnswering``.

    Example:
        >>> from moesaic.testing import tiny_span_model
        >>> reader = SpanReader(tiny_span_model())
        >>> ids = torch.tensor([[2, 5, 3, 6, 7, 3]])
        >>> may_answer = torch.tensor([[True, False, False, True, True, False]])
        >>> log_probabilities = span_log_probabilities(reader(ids, ids * 0 + 1, ids * 0, may_answer, ids))
        >>> log_probabilities.shape, bool((log_probabilities[0, :, [1, 2, 5]].exp() == 0).all())
        (torch.Size([1, 2, 6]), True)
    """

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self._has_token_types = "token_type_ids" in inspect.signature(network.forward).parameters

    def forward(
        self,
        input_ids: Int[Tensor, "window position"],
        attention_mask: Int[Tensor, "window position"],
        token_type_ids: Int[Tensor, "window position"],
        may_answer: Bool[Tensor, "window position"],
        router_ids: Int[Tensor, "window position"] | None = None,
    ) -> Float[Tensor, "window place"]:
        """Read windows (:class:`moesaic.tasks.SpanWindows`).

        Args:
            input_ids: Question and window.
            attention_mask: 1 for tokens and 0 for padding.
            token_type_ids: As the tokenizer gives them; left out where the model has none.
            may_answer: Where an answer may begin or end.
            router_ids: What a router reads; nothing to a reader.
        """
        length = int(attention_mask.sum(dim=1).max())  # padding that no window of the batch needs is not read
        arguments: dict[str, Any] = {"token_type_ids": token_type_ids[:, :length]} if self._has_token_types else {}
        output = self.network(input_ids[:, :length], attention_mask=attention_mask[:, :length], **arguments)
        scores = torch.stack([output.start_logits, output.end_logits], dim=1).float()  # (window, 2, position)
        scores = nn.functional.pad(scores, (0, input_ids.shape[1] - length))
        halves = scores.masked_fill(~may_answer.unsqueeze(1), _RULED_OUT).log_softmax(dim=-1)
        return halves.flatten(1) - math.log(2)


def load_span_reader(path: str | Path) -> SpanReader:
    """Load a checkpoint; one without a span head, such as a pretrained encoder, gets a random one to be trained.

    Whatever the checkpoint says, attention drops nothing in training: steps on a CPU were faster so when it was tried.

    Args:
        path: A folder, or the name of a model on the Hub.

    Raises:
        CheckpointError: If there is no such checkpoint, it is damaged, or its architecture has no readers of spans.
    """
    folder = read_checkpoint(path).path
    with quiet_transformers():
        try:
            network, report = AutoModelForQuestionAnswering.from_pretrained(
                folder, config=_config(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        except ValueError as error:
            raise CheckpointError(
                f"{folder}: Transformers has no AutoModelForQuestionAnswering for this architecture. Use an encoder, "
                "such as BERT."
            ) from error
    missing = sorted(name for name in report["missing_keys"] if name.startswith(f"{network.base_model_prefix}."))
    if missing:
        raise CheckpointError(f"{folder}: plain Transformers does not load it whole: {', '.join(missing[:3])}.")
    return SpanReader(network).eval()


def _config(folder: Path) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(folder)
    for name in ("attention_probs_dropout_prob", "attention_dropout"):  # as BERT and DistilBERT call it
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


class TokenRouter(nn.Module):
    """Scores members by which tokens a question and the beginning of its context have: a logistic regression.

    It reads the first window of a question for all its windows, so that each question is answered by the same members.

    Args:
        vocab_size: Number of tokens that there are.
        num_members: Number of members to score.

    Reference: Joulin et al. (2017), section 2, https://arxiv.org/abs/1607.01759, with the identity for the hidden layer
    """

    def __init__(self, vocab_size: int, num_members: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, num_members))
        self.bias = nn.Parameter(torch.zeros(num_members))

    def forward(self, *inputs: Tensor) -> Float[Tensor, "window member"]:
        """Score every member; of what readers read, only the last is looked at, in which padding is below 0."""
        router_ids = inputs[-1]
        is_token = (router_ids >= 0).unsqueeze(-1)
        scores = (self.table[router_ids.clamp_min(0)] * is_token).sum(dim=1)
        # The root, since rows of many tokens say more about their domain than rows of few.
        return scores / is_token.sum(dim=1).clamp_min(1).sqrt() + self.bias


@dataclass(frozen=True)
class SpansRead:
    """What a reader, or a mixture of readers, says of windows.

    Attributes:
        log_probabilities: Of each position to begin the answer, and to end it.
        weights: How much each member counted in each window; ``None`` for one reader alone.
    """

    log_probabilities: Float[Tensor, "window 2 position"]
    weights: Float[Tensor, "window member"] | None


@torch.no_grad()
def read_spans(network: nn.Module, windows: SpanWindows, *, batch_size: int = 32) -> SpansRead:
    """Have a reader or a mixture of readers read all windows; :func:`moesaic.tasks.best_spans` answers then.

    Args:
        network: A :class:`SpanReader`, or a mixture of some.
        windows: What is read.
        batch_size: Windows read at once, those of about the same length together.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    inputs = windows.inputs
    order = windows.attention_mask.sum(dim=1).argsort(stable=True)
    outputs, weights = [], []
    for rows in order.split(batch_size):
        output = network(*(part[rows].to(device) for part in inputs))
        outputs.append(span_log_probabilities(output if isinstance(output, Tensor) else output.logits).cpu())
        if not isinstance(output, Tensor):
            weights.append(output.routing.weights.cpu())
    network.train(was_training)
    back = order.argsort()
    return SpansRead(torch.cat(outputs)[back], torch.cat(weights)[back] if weights else None)


def span_log_probabilities(outputs: Float[Tensor, "window place"]) -> Float[Tensor, "window 2 position"]:
    """A reader's outputs as two distributions: where the answer begins, and where it ends."""
    return outputs.unflatten(-1, (2, -1)).log_softmax(dim=-1)
