"""What every combiner is: a module that turns the members' logits into one output and says how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moesaic.combiners.words import Words
from moesaic.types import Routing

COMBINERS: Words[Combiner] = Words("combiner")
"""Registered word of every combiner, as recipes and saved mixtures spell it."""

State = dict[str, Tensor]
"""What a combiner remembers of the prefix while text is generated; the first axis of each tensor is the batch."""


@dataclass(frozen=True)
class Combined:
    """One output made of several.

    Attributes:
        logits: Scores whose softmax is the combined next-token distribution, ``(batch, position, vocab)``.
        routing: Who was combined, with what weights; axes ``(batch, position)``.
        state: What the combiner must be given with the tokens that follow, or ``None`` if it needs nothing.
    """

    logits: Float[Tensor, "batch position vocab"]
    routing: Routing
    state: State | None = None


class Combiner(nn.Module, ABC):
    """Turns the members' logits into one output.

    A combiner is made with plain arguments, then told by :meth:`attach` how many members it has. It looks only at the
    tokens up to each position, so that a mixture can generate text.
    """

    word: ClassVar[str]
    reads_every_position: bool = True
    """Whether the members' scores at earlier positions matter; else generation leaves out those of the prompt."""
    reads_tokens: bool = True
    """Whether the text itself matters, not the members' scores alone; else any classifiers can be combined."""
    routes_by_text: bool = False
    """Whether the text alone decides on the weights: :meth:`route` knows them before any member has been run."""
    weights_sum_to_one: bool = True
    """Whether the output is a mean of the members; else it is a sum, as in boosting."""
    num_members: int | None = None

    @abstractmethod
    def forward(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Combined:
        """Combine the members' scores for the token that follows each position.

        Args:
            member_logits: Next-token scores of every member.
            input_ids: The tokens that the members read.
            mask: False where a token is padding.
            state: What this combiner returned for the tokens before these.
        """

    def observe(
        self,
        member_logits: Float[Tensor, "member batch position vocab"],
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
    ) -> Float[Tensor, "batch position ..."] | None:
        """What the weights depend on of the members' scores, as far as no parameter changes it.

        Whoever trains a combiner on scores that stay the same computes this once and gives it to :meth:`forward` as
        ``observed``. ``None`` where the scores do not decide on the weights; ``forward`` then takes no ``observed``.
        """
        return None

    def read_source(self, source_ids: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"]) -> State | None:
        """What to remember of a source text before the first token of an answer to it; ``None`` for nothing.

        Mixtures of encoder-decoder models ask (:class:`moesaic.Seq2SeqMixture`), and those of causal models where they
        generate: the prompt is then the source.

        Args:
            source_ids: The tokens that the members' encoders read, or the prompt.
            mask: False where a token is padding.
        """
        return None

    def route(
        self, input_ids: Int[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], state: State | None = None
    ) -> Routing | None:
        """The routing that :meth:`forward` will give, where the text alone decides on it; else ``None``."""
        return None

    def members_wanted(
        self,
        member_logits: Float[Tensor, "member batch position vocab"] | None,
        input_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        state: State | None = None,
    ) -> Bool[Tensor, "batch position member"] | None:
        """Which members the output of each position needs, as far as can be told yet; ``None`` if all.

        A mixture asks while it generates: first before any member has been run, and again when those have that were
        wanted, until nobody else is. Who was not wanted has zeros for scores, which must matter neither to the outputs
        that it is not wanted for nor to the state; it reads what it has missed when it is wanted next.

        Args:
            member_logits: Next-token scores of every member; ``None`` before any has been run.
            input_ids: The tokens to be read.
            mask: False where a token is padding.
            state: What this combiner returned for the tokens before these.
        """
        routing = self.route(input_ids, mask, state)
        return None if routing is None else routing.weights > 0

    def members_in_use(self, state: State) -> Bool[Tensor, "batch member"] | None:
        """Which members the tokens that follow still depend on, for each text of a batch; ``None`` if on all.

        A member that is out for a text stays out. It is not run for it any more while text is generated; its scores
        are then zeros, which must not matter.

        Args:
            state: What this combiner returned for the tokens so far.
        """
        return None

    def penalty(self, routing: Routing) -> Float[Tensor, ""] | None:
        """What training adds to the loss for a routing that this combiner gave; ``None`` if it adds nothing."""
        return None

    def adapt(self, routing: Routing) -> None:
        """Change what no gradient changes, such as a bias that balances loads, after an optimizer step.

        Args:
            routing: That of the step's tokens; where several processes train together, each gives its own.
        """
        return

    def attach(self, num_members: int, vocab_size: int) -> None:
        """Make what depends on the members; called once, by :class:`moesaic.Mixture`."""
        self.num_members = num_members

    @abstractmethod
    def select(self, members: list[int]) -> None:
        """Keep only these members, in this order; positions may be permuted or left out."""

    def extend(self) -> None:
        """Make room for one member more, after the others; a combiner with parameters for each member adds its own.

        The newcomer begins with as much weight as the others have on average, and they keep theirs relative to each
        other. Training goes on from there.
        """
        assert self.num_members is not None, "extend comes after attach"
        self.num_members += 1

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values: what a saved mixture needs to make this combiner again."""

    def extra_repr(self) -> str:
        """Show the arguments when printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())


register = COMBINERS.register
"""Makes a combiner known by a word, in recipes and in saved mixtures; see :meth:`Words.register`."""

build_combiner = COMBINERS.build
"""Makes the combiner that a recipe or a saved mixture names; see :meth:`Words.build`."""
