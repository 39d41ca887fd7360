"""The mixture of models whose encoder reads a source and whose decoder writes the target."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar, no_type_check

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSeq2SeqLM, Cache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from moesaic.combiners import Combiner, State
from moesaic.data import NOT_SCORED
from moesaic.members import CausalLM, Seq2SeqLM, check_numbers
from moesaic.mixture import Mixture, MixtureConfig, stack_logits
from moesaic.mixture_cache import MixtureCache
from moesaic.types import Member, MixtureOutput


@no_type_check  # see MixtureConfig
class Seq2SeqMixtureConfig(MixtureConfig):
    """What a saved mixture of encoder-decoder models says of itself."""

    model_type = "moesaic_seq2seq"

    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = None


class SourceCache(MixtureCache):
    """What the members know of the source and of the target so far.

    Attributes:
        encoded: What each member's encoder made of the source, ``(row, source, hidden)``; ``None`` for a member that no
            row of the batch uses.
        source_masks: 1 for the source's tokens and 0 for padding, beside each.
    """

    def __init__(
        self,
        num_texts: int,
        caches: Sequence[Cache | None],
        state: State | None,
        rows: Sequence[Int[Tensor, " _row"] | None],
        encoded: Sequence[Tensor | None],
        source_masks: Sequence[Tensor],
    ) -> None:
        super().__init__([[member] for member in range(len(rows))], num_texts, caches, state, rows)
        self.encoded = list(encoded)
        self.source_masks = list(source_masks)

    def _select(self, kept: Sequence[Int[Tensor, " _place"] | None]) -> None:
        super()._select(kept)
        for member, places in enumerate(kept):
            if places is not None:
                encoded = self.encoded[member]
                self.encoded[member] = None if encoded is None or not len(places) else encoded[places]
                self.source_masks[member] = self.source_masks[member][places]


class Seq2SeqMixture(Mixture):
    """Several encoder-decoder models that answer as one: :class:`moesaic.Mixture` for translation and its like.

    The combiner sees the members' scores of the target's tokens, as it does those of a causal model's text. One that
    reads the source too (:meth:`Combiner.read_source`) may leave members out of an answer altogether: neither their
    encoder nor their decoder runs.

    Args:
        members: The models; their vocabularies must be the same.
        combiner: How the members' scores of the next target token become one.
        name: What the mixture is called where it is a member.

    Raises:
        ValueError: If there is no member, or two have one name.
        IncompatibleMembersError: If the vocabularies differ.

    Example:
        >>> from moesaic.combiners import Average
        >>> from moesaic.testing import tiny_seq2seq_lm
        >>> german = Seq2SeqLM("en-de", tiny_seq2seq_lm(seed=1))
        >>> mixture = Seq2SeqMixture([german, Seq2SeqLM("en-fr", tiny_seq2seq_lm(seed=2))], Average())
        >>> mixture.generate(torch.tensor([[5, 6, 7, 1]]), max_new_tokens=4, num_beams=2).shape
        torch.Size([1, 5])
    """

    config_class = Seq2SeqMixtureConfig
    auto_class: ClassVar[Any] = AutoModelForSeq2SeqLM
    member_class: ClassVar[type[CausalLM]] = Seq2SeqLM

    def __init__(
        self, members: Sequence[Member] | MixtureConfig, combiner: Combiner | None = None, *, name: str = "mixture"
    ) -> None:
        super().__init__(members, combiner, name=name)
        self.source_reader = _SourceReader()

    def forward(  # type: ignore[override]  # a source beside the text that is written
        self,
        input_ids: Int[Tensor, "batch source"] | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch position"] | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: SourceCache | None = None,
        use_cache: bool | None = None,
        labels: Int[Tensor, "batch position"] | None = None,
        **kwargs: Any,
    ) -> MixtureOutput:
        """Run the members in use and combine what they say of the target's next token.

        Args:
            input_ids: The source.
            attention_mask: 1 for the source's tokens and 0 for padding.
            decoder_input_ids: The target so far; with a cache, only tokens that it has not seen. Made of ``labels`` if
                not given.
            decoder_attention_mask: 1 for the target's tokens and 0 for padding.
            encoder_outputs: What ``generate`` carries from step to step: the source itself.
            past_key_values: What an earlier call returned; the source is then known.
            use_cache: Return a cache for the tokens to come.
            labels: The target, -100 where nothing is scored.
            **kwargs: What ``generate`` passes to every model; members make their own.

        Returns:
            The combined logits, the routing, the cache if asked for, and the loss if there are labels.

        Raises:
            ValueError: If there is no source, or no target.
            MemberError: If a member gives NaN; not while training, which looks at its loss anyway.
        """
        target = self._target(decoder_input_ids, labels)
        past = past_key_values
        if past is None:
            source = input_ids if encoder_outputs is None else encoder_outputs.last_hidden_state
            if source is None:
                raise ValueError("There is no source: give input_ids.")
            past = self._read_source(source, attention_mask)
        outputs = [self._ask_for_target(member, target, past, use_cache) for member in range(len(self.members))]
        answers = {member: output.logits for member, output in enumerate(outputs) if output is not None}
        member_logits = stack_logits(answers, past.rows, len(target))
        if not self.training and not torch.compiler.is_compiling():
            check_numbers(self.member_names, member_logits)
        mask = torch.ones_like(target) if decoder_attention_mask is None else decoder_attention_mask
        combined = self.combiner(member_logits, target, mask[:, -target.shape[1] :].bool(), past.state)
        cache = self._source_cache(outputs, combined.state, past) if use_cache else None
        loss = None if labels is None else F.cross_entropy(combined.logits.flatten(0, 1).float(), labels.flatten())
        return MixtureOutput(loss=loss, logits=combined.logits, past_key_values=cache, routing=combined.routing)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """What ``generate`` calls first; see :class:`_SourceReader`."""
        return self.source_reader

    def _target(self, decoder_input_ids: Tensor | None, labels: Tensor | None) -> Int[Tensor, "batch position"]:
        if decoder_input_ids is not None:
            return decoder_input_ids
        if labels is None:
            raise ValueError("There is no target: give decoder_input_ids, or labels.")
        return shift_right(labels, self.config)

    def _read_source(self, source: Int[Tensor, "batch source"], attention_mask: Tensor | None) -> SourceCache:
        """Have every member that is in use encode the source; beams that share one are encoded once."""
        mask = torch.ones_like(source) if attention_mask is None else attention_mask
        state = self.combiner.read_source(source, mask.bool())
        in_use = None if state is None else self.combiner.members_in_use(state)
        rows = self._rows_in_use(in_use)
        encoded = [
            _encode(network, source if chosen is None else source[chosen], mask if chosen is None else mask[chosen])
            for network, chosen in zip(self.members, rows, strict=True)
        ]
        masks = [mask if chosen is None else mask[chosen] for chosen in rows]
        return SourceCache(len(source), [None] * len(rows), state, rows, encoded, masks)

    def _rows_in_use(self, in_use: Bool[Tensor, "batch member"] | None) -> list[Tensor | None]:
        if in_use is None:
            return [None] * len(self.members)
        return [None if used.all() else used.nonzero().squeeze(1) for used in in_use.unbind(dim=1)]

    def _ask_for_target(
        self, member: int, target: Int[Tensor, "batch position"], past: SourceCache, use_cache: bool | None
    ) -> Any:
        """Run a member's decoder on the texts that are its own; ``None`` if there are none."""
        rows, network = past.rows[member], self.members[member]
        if not past.in_use(member):
            return None
        return network(
            encoder_outputs=BaseModelOutput(last_hidden_state=past.encoded[member]),
            attention_mask=past.source_masks[member],
            decoder_input_ids=target if rows is None else target[rows],
            past_key_values=past.caches[member],
            use_cache=bool(use_cache),
        )

    def _source_cache(self, outputs: Sequence[Any], state: State | None, past: SourceCache) -> SourceCache:
        caches = [None if output is None else output.past_key_values for output in outputs]
        cache = SourceCache(past.num_texts, caches, state, past.rows, past.encoded, past.source_masks)
        in_use = None if state is None else self.combiner.members_in_use(state)
        if in_use is not None:
            cache.keep_in_use(in_use)
        return cache

    @classmethod
    def _configure(cls, members: Sequence[Member], combiner: Combiner) -> Any:
        config = super()._configure(members, combiner)
        first: Any = members[0].network.config
        config.decoder_start_token_id = first.decoder_start_token_id
        return config

    @staticmethod
    def _generation_config(network: Any) -> GenerationConfig:
        return deepcopy(network.generation_config)


def shift_right(labels: Int[Tensor, "batch target"], config: Any) -> Int[Tensor, "batch target"]:
    """What a decoder reads to predict the labels: the token that begins a target, then each token before the next.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(decoder_start_token_id=7, pad_token_id=0)
        >>> shift_right(torch.tensor([[4, 5, 1], [6, 1, -100]]), config)
        tensor([[7, 4, 5], [7, 6, 1]])
    """
    start = labels.new_full((len(labels), 1), config.decoder_start_token_id)
    tokens = torch.cat([start, labels[:, :-1]], dim=1)
    return tokens.masked_fill(tokens == NOT_SCORED, config.pad_token_id)


class _SourceReader(nn.Module):
    """Takes the place of an encoder in ``generate``: it hands the source on as it is.

    Which members' encoders are to run is only known when the combiner has read the source, which the first call of the
    mixture does.
    """

    def forward(
        self, input_ids: Int[Tensor, "batch source"], attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=input_ids)


def _encode(network: Any, source: Int[Tensor, "row source"], mask: Int[Tensor, "row source"]) -> Tensor | None:
    if not len(source):
        return None
    distinct, places = torch.stack([source, mask], dim=1).unique_consecutive(dim=0, return_inverse=True)
    hidden = network.get_encoder()(input_ids=distinct[:, 0], attention_mask=distinct[:, 1]).last_hidden_state
    return hidden if len(hidden) == len(source) else hidden[places]


AutoConfig.register("moesaic_seq2seq", Seq2SeqMixtureConfig)
AutoModelForSeq2SeqLM.register(Seq2SeqMixtureConfig, Seq2SeqMixture)
