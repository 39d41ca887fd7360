"""One member answers where it is sure; all are combined where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from moesaic.combiners.base import Combined, Combiner, State, build_combiner, register
from moesaic.combiners.choices import routing_of_all
from moesaic.combiners.deferral import ClassConfidence
from moesaic.combiners.entropy import entropy
from moesaic.types import Routing


@register("selective")
class Selective(Combiner):
    """Ask one member, and combine it with the others only at the tokens of which it is not sure.

    Most tokens of a text are easy, and there a mixture says what its best member says. So the main member reads every
    token, and where its confidence is below a threshold another combiner's answer is given. While text is generated the
    other members are not run until they are wanted, and then read at once what they have missed.
    :func:`moesaic.training.calibrate_selective` finds the threshold for a share of the tokens.

    Args:
        combiner: Combines the members where the main one is unsure, or its saved form: its word under ``type``, and its
            arguments. It must not remember what members said of earlier tokens, as a posterior does.
        threshold: Members are combined where confidence is below this; ``inf`` always, ``-inf`` never.
        measure: How sure the main member is: ``probability`` of the likeliest token, its ``margin`` to the second, or
            the ``entropy`` in nats with its sign turned.
        main: Position of the main member. With ``None`` it is, at every token, the one to which the combiner gives the
            largest weight, which only combiners know that look at the text alone (``routed``, ``clustered``).

    Raises:
        ValueError: If the combiner remembers what members said, or cannot name the main member; if the threshold is
            NaN, or there is no such measure.

    Example:
        >>> from moesaic.combiners import Average
        >>> combiner = Selective(Average(), threshold=0.6)
        >>> combiner.attach(2, vocab_size=2)
        >>> probabilities = torch.tensor([[[[0.7, 0.3], [0.5, 0.5]]], [[[0.1, 0.9], [0.2, 0.8]]]])
        >>> output = combiner(probabilities.log(), torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
        >>> output.logits.exp()
        tensor([[[0.7000, 0.3000],
                 [0.3500, 0.6500]]])
        >>> output.routing.num_used
        tensor([[1, 2]])

    Reference: Yu et al. (2024), "ensembling only key tokens", https://arxiv.org/abs/2406.12585
    """

    def __init__(
        self,
        combiner: Combiner | Mapping[str, Any],
        threshold: float,
        measure: ClassConfidence = "probability",
        main: int | None = 0,
    ) -> None:
        super().__init__()
        self.combiner = combiner if isinstance(combiner, Combiner) else build_combiner(**combiner)
        _check(self.combiner, threshold, measure, main)
        self.threshold = threshold
        self.measure: ClassConfidence = measure
        self.main = main
        self.reads_every_position = self.combiner.reads_every_position
        self.reads_tokens = self.combiner.reads_tokens
        self.weights_sum_to_one = self.combiner.weights_sum_to_one

    def attach(self, num_members: int, vocab_size: int) -> None:
        """See :meth:`Combiner.attach`.

        Raises:
            ValueError: If there is no member at the main one's position.
        """
        super().attach(num_members, vocab_size)
        if self.main is not None and not 0 <= self.main < num_members:
            raise ValueError(f"main must be the position of a member, from 0 to {num_members - 1}, got {self.main}.")
        self.combiner.attach(num_members, vocab_size)

    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """See :meth:`Combiner.forward`; where one member has all the weight, it was sure enough to answer alone."""
        combined = self.combiner(member_logits, input_ids, mask, state)
        main = self._main(input_ids, combined.routing)
        alone = _answers_of(main, member_logits)
        is_sure = token_confidence(alone, self.measure) >= self.threshold  # (batch, position)
        weights = torch.where(
            is_sure.unsqueeze(-1), F.one_hot(main, len(member_logits)).float(), combined.routing.weights
        )
        return Combined(
            torch.where(is_sure.unsqueeze(-1), alone, combined.logits),
            routing_of_all(weights, combined.routing.router_logits),
            combined.state,
        )

    def answer_alone(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
    ) -> Float[Tensor, "batch position vocab"]:
        """The main member's log-probabilities of the token that follows each position of a text."""
        return _answers_of(self._main(input_ids, self.combiner.route(input_ids, mask)), member_logits)

    def members_wanted(
        self,
        member_logits: Float[Tensor, "member batch position vocab"] | None,
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Bool[Tensor, "batch position member"]:
        """See :meth:`Combiner.members_wanted`: the main member, then whoever is combined where it is unsure."""
        assert self.num_members is not None, "members_wanted comes after attach"
        main = self._main(input_ids, self.combiner.route(input_ids, mask, state))
        wanted = F.one_hot(main, self.num_members).bool()  # (batch, position, member)
        if member_logits is None:
            return wanted
        is_sure = token_confidence(_answers_of(main, member_logits), self.measure) >= self.threshold
        if is_sure.all():
            return wanted
        combined = self.combiner.members_wanted(member_logits, input_ids, mask, state)
        others = torch.ones_like(wanted) if combined is None else combined
        return wanted | (others & ~is_sure.unsqueeze(-1))

    def penalty(self, routing: Routing) -> Float[Tensor, ""] | None:
        """See :meth:`Combiner.penalty`."""
        return self.combiner.penalty(routing)

    def adapt(self, routing: Routing) -> None:
        """See :meth:`Combiner.adapt`."""
        self.combiner.adapt(routing)

    def select(self, members: list[int]) -> None:
        """See :meth:`Combiner.select`.

        Raises:
            ValueError: If the main member is left out.
        """
        if self.main is not None and self.main not in members:
            raise ValueError(
                f"The main member (position {self.main}) cannot be removed: it answers wherever it is sure. Make a "
                "mixture whose Selective names another."
            )
        self.num_members = len(members)
        self.main = None if self.main is None else members.index(self.main)
        self.combiner.select(members)

    def extend(self) -> None:
        """See :meth:`Combiner.extend`; the main member stays the same."""
        super().extend()
        self.combiner.extend()

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Combiner.arguments`."""
        return {
            "combiner": {"type": self.combiner.word, **self.combiner.arguments()},
            "threshold": self.threshold,
            "measure": self.measure,
            "main": self.main,
        }

    def extra_repr(self) -> str:
        """Show what decides; the combiner shows itself."""
        return f"threshold={self.threshold}, measure={self.measure!r}, main={self.main}"

    def _main(self, input_ids: Int[Tensor, "batch position"], routing: Routing | None) -> Int[Tensor, "batch position"]:
        """The main member of each position."""
        if self.main is not None:
            return torch.full_like(input_ids, self.main)
        assert routing is not None, "a combiner that routes by text does so"
        return routing.weights.argmax(dim=-1)


def token_confidence(
    log_probabilities: Float[Tensor, "*axes vocab"], measure: ClassConfidence
) -> Float[Tensor, "*axes"]:
    """How sure a member is of the next token; higher is surer.

    What :func:`moesaic.combiners.class_confidence` is for rows of a table, on the device where the model runs.

    Args:
        log_probabilities: Of the next token.
        measure: ``probability``, ``margin`` or ``entropy``; see :class:`Selective`.

    Example:
        >>> token_confidence(torch.tensor([0.7, 0.2, 0.1]).log(), "margin")
        tensor(0.5000)
    """
    if measure == "entropy":
        return -entropy(log_probabilities)
    if measure == "margin":
        first, second = log_probabilities.topk(2, dim=-1).values.exp().unbind(dim=-1)
        return first - second
    return log_probabilities.amax(dim=-1).exp()


def _answers_of(
    member: Int[Tensor, "batch position"], member_logits: Float[Tensor, "member batch position vocab"]
) -> Float[Tensor, "batch position vocab"]:
    """The log-probabilities of the member that each position names."""
    index = member[None, ..., None].expand(1, -1, -1, member_logits.shape[-1])
    return member_logits.gather(0, index).squeeze(0).float().log_softmax(dim=-1)


def _check(combiner: Combiner, threshold: float, measure: str, main: int | None) -> None:
    if combiner.reads_every_position and not combiner.routes_by_text:
        raise ValueError(
            f"Selective cannot combine by {combiner.word!r}, which remembers what every member said of every token, so "
            "that none could be left out. Use one that does not, such as 'average', 'weighted', 'entropy', 'routed' or "
            "'clustered'."
        )
    if main is None and not combiner.routes_by_text:
        raise ValueError(
            f"main=None takes the member that the combiner ranks first before any is run, which {combiner.word!r} "
            "cannot tell. Give main the position of a member, or combine by 'routed' or 'clustered'."
        )
    if threshold != threshold:
        raise ValueError("threshold must be a number, got NaN, which is above and below nothing.")
    if measure not in get_args(ClassConfidence):
        raise ValueError(f"measure must be one of {', '.join(get_args(ClassConfidence))}, got {measure!r}.")
