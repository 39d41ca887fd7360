"""The rows of the spine's arena: every expert, every static way to combine them, and every stage of the mixture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moesaic.arena import DENSE, Row, active_parameters, measure, oracle_row, total_parameters
from moesaic.arena.table import Kind
from moesaic.combiners import Average, Combiner, Posterior
from moesaic.data import EvaluationBlocks
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.moe import find_gates

ENSEMBLES: dict[str, Callable[[], Combiner]] = {
    "probability average": Average,
    "logit average": lambda: Average("logit"),
    "posterior": Posterior,
}


@dataclass(frozen=True)
class LineUp:
    """Measures rows on the same documents.

    Attributes:
        blocks: The test documents of every domain.
        batch_size: Windows read at once.
        on_row: Told of every row as it is measured.
    """

    blocks: Mapping[str, EvaluationBlocks]
    batch_size: int
    on_row: Callable[[Row], None]

    def row(self, name: str, kind: Kind, network: Any, training_tokens: int) -> Row:
        """Measure one model."""
        measured = measure(network, self.blocks, batch_size=self.batch_size, name=name)
        row = Row(
            name=name,
            kind=kind,
            scores=measured.scores,
            total_parameters=total_parameters(network),
            active_parameters=active_parameters(network),
            tokens_per_second=measured.tokens_per_second,
            training_tokens=training_tokens,
        )
        self.on_row(row)
        return row

    def experts(self, experts: Sequence[CausalLM], training_tokens: int) -> Iterator[Row]:
        """Each expert alone, and the oracle that always picks the domain's own."""
        rows = [self.row(f"expert {expert.name}", "expert", expert.network, training_tokens) for expert in experts]
        yield from rows
        oracle = oracle_row(rows, list(self.blocks))
        self.on_row(oracle)
        yield oracle

    def ensembles(self, experts: Sequence[CausalLM], training_tokens: int) -> Iterator[Row]:
        """The experts combined without any training."""
        yield self.row("parameter average", "ensemble", average_parameters(experts), training_tokens)
        for name, make in ENSEMBLES.items():
            yield self.row(name, "ensemble", Mixture(experts, make()), training_tokens)

    def untrained(
        self, network: PreTrainedModel, routers: Mapping[str, Mapping[int, Tensor]], training_tokens: int
    ) -> Iterator[Row]:
        """The assembled mixture with each router that was not trained."""
        for method, weights in routers.items():
            with torch.no_grad():
                for layer, gate in enumerate(find_gates(network)):
                    gate.weight.copy_(weights[layer])
            yield self.row(f"mixture, {method} router", "mixture", network, training_tokens)

    def reference(self, name: str, network: PreTrainedModel, training_tokens: int) -> Row:
        """A dense model."""
        return self.row(name, "reference", network, training_tokens)

    def dense(self, network: PreTrainedModel, training_tokens: int) -> Row:
        """The dense model that read as much as the whole mixture road."""
        return self.reference(DENSE, network, training_tokens)


def average_parameters(members: Sequence[CausalLM]) -> PreTrainedModel:
    """One model whose parameters are the mean of the members' (a soup).

    Reference: Wortsman et al. (2022), section 2, https://arxiv.org/abs/2203.05482
    """
    network = copy.deepcopy(members[0].network)
    others = [dict(member.network.named_parameters()) for member in members]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.stack([other[name].float() for other in others]).mean(0))
    return network
