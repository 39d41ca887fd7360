"""A mixture: members and a combiner, ``y = Σ_m w_m(x) f_m(x)``. Read this file first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from moesaic.combiners import Combiner, State, build_combiner
from moesaic.errors import IncompatibleMembersError
from moesaic.members import (
    CausalLM,
    Seq2SeqLM,
    check_names,
    check_numbers,
    find_shared_backbones,
    find_teams,
    position_of,
    positions_without,
    run_together,
    share_backbones,
)
from moesaic.mixture_cache import MixtureCache, Tokens, num_tokens, take_rows
from moesaic.types import Member, MixtureOutput


@no_type_check  # Transformers makes the dataclass; its __init__ takes more than the fields
class MixtureConfig(PreTrainedConfig):
    """What a saved mixture says of itself: its members' own configurations and its combiner's word and arguments.

    Attributes:
        members: One Transformers configuration a member, as a dictionary.
        member_names: Their names, in the same order.
        combiner: The combiner's registered word under ``type``, and its arguments.
        shared_backbones: The places of the members that are adapters of one backbone, for each backbone that several
            share; members of members too (``1.members.0``).
    """

    model_type = "moesaic"

    members: list[dict[str, Any]] | None = None
    member_names: list[str] | None = None
    combiner: dict[str, Any] | None = None
    shared_backbones: list[list[str]] | None = None
    vocab_size: int = 0


class Mixture(PreTrainedModel, GenerationMixin):
    """Several causal language models that answer as one.

    A mixture is a Transformers model: it generates, is saved with ``save_pretrained`` and loaded with
    ``Mixture.from_pretrained``. It is itself a member, so mixtures nest.

    Args:
        members: The models; their vocabularies must be the same. (A :class:`MixtureConfig` makes a mixture with random
            weights: that is how Transformers loads one.)
        combiner: How the members' next-token scores become one.
        name: What the mixture is called where it is a member.

    Raises:
        ValueError: If there is no member, or two have one name.
        IncompatibleMembersError: If the vocabularies differ.

    Example:
        >>> from moesaic.combiners import Average
        >>> from moesaic.members import CausalLM
        >>> from moesaic.testing import tiny_causal_lm
        >>> mixture = Mixture([CausalLM("a", tiny_causal_lm(seed=1)), CausalLM("b", tiny_causal_lm(seed=2))], Average())
        >>> mixture(torch.tensor([[5, 6, 7]])).routing.weights[0, -1]
        tensor([0.5000, 0.5000])
    """

    config_class = MixtureConfig
    auto_class: ClassVar[Any] = AutoModelForCausalLM
    member_class: ClassVar[type[CausalLM | Seq2SeqLM]] = CausalLM
    base_model_prefix = "mixture"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self, members: Sequence[Member] | MixtureConfig, combiner: Combiner | None = None, *, name: str = "mixture"
    ) -> None:
        if isinstance(members, MixtureConfig):
            config = members
            networks: list[Any] = [
                self.auto_class.from_config(AutoConfig.for_model(**member)) for member in config.members or []
            ]
            share_backbones(networks, config.shared_backbones or [])
            combiner = build_combiner(**(config.combiner or {}))
            self_tokenizer = None
        else:
            if combiner is None:
                raise ValueError("A mixture needs a combiner, for instance moesaic.combiners.Average().")
            _check_members(members)
            networks = [member.network for member in members]
            config = self._configure(members, combiner)
            self_tokenizer = members[0].tokenizer
        super().__init__(config)
        self.name = name
        self.tokenizer: PreTrainedTokenizerBase | None = self_tokenizer
        self.members = nn.ModuleList(networks)
        self.teams = find_teams(networks)
        self.combiner = combiner
        self.register_state_dict_post_hook(_copy_shared_buffers)
        if combiner.num_members is None:
            combiner.attach(len(networks), config.vocab_size)
        if isinstance(members, MixtureConfig):
            self.post_init()
        else:
            self.generation_config = self._generation_config(networks[0])

    @property
    def network(self) -> nn.Module:
        """The mixture itself: what makes it a member."""
        return self

    @property
    def member_names(self) -> list[str]:
        """The members' names, in the order of every routing's last axis."""
        return list(self.config.member_names)

    def forward(
        self,
        input_ids: Int[Tensor, "batch position"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: MixtureCache | None = None,
        use_cache: bool | None = None,
        labels: Int[Tensor, "batch position"] | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> MixtureOutput:
        """Run the members and combine what they say of the next token.

        With a cache, members that no text of the batch wants are left out
        (:meth:`moesaic.combiners.Combiner.members_wanted`); whoever is wanted later reads what it has missed first.
        Members that are adapters of one backbone are a team: they run as one batch, so that its weights are read once.

        Args:
            input_ids: The tokens; with a cache, only those that it has not seen.
            attention_mask: 1 for tokens and 0 for padding, over the cached positions too, ``(batch, past + position)``.
            position_ids: Positions, where they do not simply count from 0.
            past_key_values: What an earlier call returned.
            use_cache: Return a cache for the tokens to come.
            labels: Tokens to be predicted, as Transformers spells them: the input itself, -100 where nothing is scored.
            logits_to_keep: Positions, from the end, whose scores are wanted; 0 for all. What no score depends on is
                not computed: a prompt's scores need as much memory as its length times the vocabulary.
            **kwargs: What ``generate`` passes to every model; members make their own.

        Returns:
            The combined logits, the routing, the cache if asked for, and the loss if there are labels.

        Raises:
            MemberError: If a member gives NaN; not while training, which looks at its loss anyway.
        """
        past = past_key_values
        if past is None:
            past = self._begin(input_ids, attention_mask, generates=bool(use_cache))
        # Members may differ in how they number padded positions, so those are made here, once, for all.
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.cumsum(dim=-1) - 1).clamp_min(0)[:, -input_ids.shape[1] :]
        num_wanted = 0 if labels is not None else logits_to_keep
        num_read = 0 if self.combiner.reads_every_position else num_wanted
        tokens: Tokens = {"input_ids": input_ids, "position_ids": position_ids}
        read_ids, mask = input_ids[:, -num_read:], _token_mask(input_ids, attention_mask)[:, -num_read:]
        answers: dict[int, Tensor] = {}
        caches: dict[int, Any] = {}
        member_logits: Tensor | None = None
        while asked := self._next_asked(caches, member_logits, read_ids, mask, past, num_wanted if use_cache else None):
            for team in asked:
                said, caches[team] = self._ask(team, tokens, attention_mask, past, num_read, bool(use_cache))
                answers |= said
            member_logits = stack_logits(answers, past.rows, len(input_ids))
        assert member_logits is not None, "somebody is always asked"
        if not self.training and not torch.compiler.is_compiling():
            check_numbers(self.member_names, member_logits)
        combined = self.combiner(member_logits, read_ids, mask, past.state)
        cache = self._cache(caches, tokens, combined.state, past) if use_cache else None
        loss = None if labels is None else _next_token_loss(combined.logits, labels)
        logits = combined.logits[:, -logits_to_keep:]
        return MixtureOutput(loss=loss, logits=logits, past_key_values=cache, routing=combined.routing)

    def add_member(self, member: Member) -> Mixture:
        """A mixture with one member more, after the others.

        The combiner gives it as much weight as the others have on average (:meth:`moesaic.combiners.Combiner.extend`).
        The networks are shared with this mixture, which stays what it is; the combiner is a copy.

        Raises:
            ValueError: If a member has its name already.
            IncompatibleMembersError: If its vocabulary is another.
        """
        combiner = deepcopy(self.combiner)
        combiner.extend()
        return type(self)([*self._members(), member], combiner, name=self.name)

    def replace_member(self, name: str, member: Member) -> Mixture:
        """A mixture with another model in the place of one member, and with that member's weight.

        Networks and combiner are treated as in :meth:`add_member`.

        Raises:
            ValueError: If no member has that name, or another has the new one's.
            IncompatibleMembersError: If the new member's vocabulary is another.
        """
        members = self._members()
        members[position_of(name, self.member_names)] = member
        return type(self)(members, deepcopy(self.combiner), name=self.name)

    def remove_member(self, name: str) -> Mixture:
        """A mixture without one of the members; the weights of the others fill its place.

        Networks and combiner are treated as in :meth:`add_member`.

        Raises:
            ValueError: If no member has that name, or it is the only one.
        """
        left = positions_without(name, self.member_names)
        combiner = deepcopy(self.combiner)
        combiner.select(left)
        members = self._members()
        return type(self)([members[position] for position in left], combiner, name=self.name)

    def _members(self) -> list[Member]:
        return [
            self.member_class(name, network, self.tokenizer)
            for name, network in zip(self.member_names, self.members, strict=True)
        ]

    @classmethod
    def _configure(cls, members: Sequence[Member], combiner: Combiner) -> Any:
        first: Any = members[0].network.config
        networks: list[Any] = [member.network for member in members]
        return cls.config_class(
            members=[network.config.to_dict() for network in networks],
            shared_backbones=find_shared_backbones(networks),
            member_names=[member.name for member in members],
            combiner={"type": combiner.word, **combiner.arguments()},
            vocab_size=first.vocab_size,
            bos_token_id=getattr(first, "bos_token_id", None),
            eos_token_id=first.eos_token_id,
            pad_token_id=first.pad_token_id,
            tie_word_embeddings=False,
            dtype=first.dtype,
        )

    @staticmethod
    def _generation_config(network: Any) -> GenerationConfig:
        return GenerationConfig.from_model_config(network.config)

    def _begin(
        self, input_ids: Int[Tensor, "batch position"], attention_mask: Tensor | None, *, generates: bool
    ) -> MixtureCache:
        """What is remembered before anything is read; where text is generated, a router may read the prompt first."""
        past = MixtureCache(self.teams, len(input_ids))
        if generates:
            past.state = self.combiner.read_source(input_ids, _token_mask(input_ids, attention_mask))
        in_use = None if past.state is None else self.combiner.members_in_use(past.state)
        if in_use is not None:
            past.keep_in_use(in_use)
        return past

    def _next_asked(
        self,
        asked_before: Collection[int],
        member_logits: Float[Tensor, "member batch position vocab"] | None,
        read_ids: Int[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        past: MixtureCache,
        num_wanted: int | None,
    ) -> list[int]:
        """Which teams run next: all, or, where a cache lets them catch up, those that ``num_wanted`` positions want.

        Teams run for the whole batch, so that the positions in a cache are those of the text.
        """
        waiting = [team for team in range(len(self.teams)) if past.in_use(team) and team not in asked_before]
        if not waiting or num_wanted is None or self.training or torch.compiler.is_compiling():
            return waiting
        wanted = self.combiner.members_wanted(member_logits, read_ids, mask, past.state)
        if wanted is None:
            return waiting
        is_wanted = (wanted & mask.unsqueeze(-1))[:, -num_wanted:].flatten(0, 1).any(dim=0).tolist()
        asked = [team for team in waiting if any(is_wanted[member] for member in past.in_use(team))]
        # Where a choice uses no member at all, somebody must still say how large the vocabulary is.
        return asked if asked or asked_before else waiting[:1]

    def _ask(
        self,
        team: int,
        tokens: Tokens,
        attention_mask: Tensor | None,
        past: MixtureCache,
        num_read: int,
        use_cache: bool,
    ) -> tuple[dict[int, Tensor], Any]:
        """Run a team on these tokens and on what it has missed before them, of which no scores are wanted.

        Returns:
            The scores of each of its members, and its cache.
        """
        batch = past.unread_by(team, tokens) | {"attention_mask": attention_mask}
        members = past.in_use(team)
        parts = [take_rows(batch, past.rows[member]) for member in members]
        num_kept = num_read or (0 if past.unread[team] is None else num_tokens(tokens))
        options = {"use_cache": use_cache, **({"logits_to_keep": num_kept} if num_kept else {})}
        networks: list[Any] = [self.members[member] for member in members]
        if len(networks) > 1:
            said, cache = run_together(networks, parts, past.caches[team], **options)
        else:
            output = networks[0](**parts[0], past_key_values=past.caches[team], **options)
            said, cache = [output.logits], output.past_key_values
        return dict(zip(members, said, strict=True)), cache

    def _cache(
        self, caches: Mapping[int, Any], tokens: Tokens, state: State | None, past: MixtureCache
    ) -> MixtureCache:
        """What the tokens that follow are read with; members that they do not depend on are left out of it."""
        cache = MixtureCache(self.teams, past.num_texts, past.caches, state, past.rows)
        for team in range(len(self.teams)):
            if team in caches:
                cache.caches[team] = caches[team]
            elif past.in_use(team):
                cache.unread[team] = past.unread_by(team, tokens)
        in_use = None if state is None else self.combiner.members_in_use(state)
        if in_use is not None:
            cache.keep_in_use(in_use)
        return cache

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # generate() then leaves the cache to us: the first forward makes one for each member.
        return False

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Tell Transformers which weights the members tie; it does not look into lists of models by itself."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        members: Any = self.members
        tied = {
            f"members.{index}.{target}": f"members.{index}.{source}"
            for index, member in enumerate(members)
            for target, source in member.get_expanded_tied_weights_keys(all_submodels=True).items()
        }
        shared = self._tied_weights_keys
        return {target: shared.get(source, source) for target, source in (shared | tied).items()}

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """Tensors of the backbones that members share, with the name under which each is saved."""
        shared = find_shared_backbones(list(self.members))
        sharing = tuple(f"members.{place}." for places in shared for place in places)
        first: dict[int, str] = {}
        names = {
            name: first.setdefault(id(tensor), name)
            for name, tensor in self.named_parameters(remove_duplicate=False)
            if name.startswith(sharing)
        }
        return {name: source for name, source in names.items() if name != source}

    def _init_weights(self, module: nn.Module) -> None:
        # Members and combiner come initialized.
        pass

    def __repr__(self) -> str:
        members = ", ".join(self.member_names)
        return f"{type(self).__name__}([{members}], {self.combiner})"


def _copy_shared_buffers(mixture: Mixture, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Save the buffers of a shared backbone for each member: Transformers ties parameters only."""
    if any(len(team) > 1 for team in mixture.teams):
        for name, _buffer in mixture.named_buffers(prefix.removesuffix("."), remove_duplicate=False):
            if name in state:
                state[name] = state[name].clone()


def _check_members(members: Sequence[Member]) -> None:
    check_names([member.name for member in members])
    sizes = {member.name: _vocab_size(member) for member in members}
    vocabularies = [member.tokenizer.get_vocab() for member in members if member.tokenizer is not None]
    if len(set(sizes.values())) > 1 or any(vocabulary != vocabularies[0] for vocabulary in vocabularies[1:]):
        given = ", ".join(f"{name} has {size} tokens" for name, size in sizes.items())
        reason = "" if len(set(sizes.values())) > 1 else ", but not the same ones"
        raise IncompatibleMembersError(
            f"Members that meet at logits need one vocabulary: {given}{reason}. Use members that share a tokenizer, or "
            "combine them at text: moesaic.TextMixture(members, moesaic.combiners.Rerank())."
        )


def _vocab_size(member: Member) -> int:
    config: Any = member.network.config
    return config.vocab_size


def _token_mask(
    input_ids: Int[Tensor, "batch position"], attention_mask: Tensor | None
) -> Bool[Tensor, "batch position"]:
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    return attention_mask[:, -input_ids.shape[1] :].bool()


def stack_logits(
    answers: Mapping[int, Tensor], rows: Sequence[Int[Tensor, _] | None], batch_size: int
) -> Float[Tensor, "member batch position vocab"]:
    """The members' scores; zeros for texts on which a member was not run.

    Args:
        answers: The scores of the members that were run, by their positions.
        rows: The texts of the batch on which each member is run; ``None`` for all.
        batch_size: Number of texts.
    """
    first = next(iter(answers.values()))
    shape, stacked = (batch_size, *first.shape[1:]), []
    for member, of_member in enumerate(rows):
        logits = answers.get(member)
        if logits is None:
            stacked.append(first.new_zeros(shape))
        else:
            stacked.append(logits if of_member is None else first.new_zeros(shape).index_copy(0, of_member, logits))
    return torch.stack(stacked)


def _next_token_loss(logits: Float[Tensor, "batch position vocab"], labels: Int[Tensor, "batch position"]) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


AutoConfig.register("moesaic", MixtureConfig)
AutoModelForCausalLM.register(MixtureConfig, Mixture)
