"""A mixture: members and a combiner, ``y = Σ_m w_m(x) f_m(x)``. Read this file first."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, no_type_check

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
from moesaic.members import CausalLM, build_networks, check_numbers, describe_networks, find_teams, run_together
from moesaic.mixture_cache import MixtureCache
from moesaic.types import Member, MixtureOutput


@no_type_check  # Transformers makes the dataclass; its __init__ takes more than the fields
class MixtureConfig(PreTrainedConfig):
    """What a saved mixture says of itself: its members' own configurations and its combiner's word and arguments.

    Attributes:
        members: One Transformers configuration a member, as a dictionary.
        member_names: Their names, in the same order.
        combiner: The combiner's registered word under ``type``, and its arguments.
    """

    model_type = "moesaic"

    members: list[dict[str, Any]] | None = None
    member_names: list[str] | None = None
    combiner: dict[str, Any] | None = None
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
    base_model_prefix = "mixture"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self, members: Sequence[Member] | MixtureConfig, combiner: Combiner | None = None, *, name: str = "mixture"
    ) -> None:
        if isinstance(members, MixtureConfig):
            config = members
            networks: list[Any] = list(build_networks(config.members or []))
            combiner = build_combiner(**(config.combiner or {}))
            self_tokenizer = None
        else:
            if combiner is None:
                raise ValueError("A mixture needs a combiner, for instance moesaic.combiners.Average().")
            _check_members(members)
            networks = [member.network for member in members]
            config = _configure(members, combiner)
            self_tokenizer = members[0].tokenizer
        super().__init__(config)
        self.name = name
        self.tokenizer: PreTrainedTokenizerBase | None = self_tokenizer
        self.members = nn.ModuleList(networks)
        self.teams = find_teams(networks)
        self.combiner = combiner
        if combiner.num_members is None:
            combiner.attach(len(networks), config.vocab_size)
        if isinstance(members, MixtureConfig):
            self.post_init()
        else:
            self.generation_config = GenerationConfig.from_model_config(networks[0].config)

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
        """Run every member and combine what they say of the next token.

        Members that are adapters of one backbone are run as one batch, so that its weights are read once.

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
        past = MixtureCache(self.teams, len(input_ids)) if past_key_values is None else past_key_values
        # Members may differ in how they number padded positions, so those are made here, once, for all.
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.cumsum(dim=-1) - 1).clamp_min(0)[:, -input_ids.shape[1] :]
        num_read = 0 if self.combiner.reads_every_position or labels is not None else logits_to_keep
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        options = {"use_cache": bool(use_cache), **({"logits_to_keep": num_read} if num_read else {})}
        answers, caches = self._ask_members(batch, past, options)
        member_logits = _stack_logits(answers, past.rows, len(input_ids))
        if not self.training and not torch.compiler.is_compiling():
            check_numbers(self.member_names, member_logits)
        mask = _token_mask(input_ids, attention_mask)
        combined = self.combiner(member_logits, input_ids[:, -num_read:], mask[:, -num_read:], past.state)
        cache = self._cache(caches, combined.state, past) if use_cache else None
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
        return Mixture([*self._members(), member], combiner, name=self.name)

    def replace_member(self, name: str, member: Member) -> Mixture:
        """A mixture with another model in the place of one member, and with that member's weight.

        Networks and combiner are treated as in :meth:`add_member`.

        Raises:
            ValueError: If no member has that name, or another has the new one's.
            IncompatibleMembersError: If the new member's vocabulary is another.
        """
        members = self._members()
        members[position_of(name, self.member_names)] = member
        return Mixture(members, deepcopy(self.combiner), name=self.name)

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
        return Mixture([members[position] for position in left], combiner, name=self.name)

    def _members(self) -> list[Member]:
        return [
            CausalLM(name, network, self.tokenizer)
            for name, network in zip(self.member_names, self.members, strict=True)
        ]

    def _ask_members(
        self, batch: dict[str, Tensor | None], past: MixtureCache, options: dict[str, Any]
    ) -> tuple[list[Tensor | None], list[Any]]:
        """Have every member read its texts, those of a team in one call; returns their scores and the teams' caches."""
        answers: list[Tensor | None] = [None] * len(self.members)
        caches = []
        for team, cache in zip(self.teams, past.caches, strict=True):
            asked = [number for number in team if (rows := past.rows[number]) is None or len(rows)]
            parts = [_take_rows(batch, past.rows[number]) for number in asked]
            said, cache_of_team = _ask_team([self.members[number] for number in asked], parts, cache, options)
            caches.append(cache_of_team)
            for number, logits in zip(asked, said, strict=True):
                answers[number] = logits
        return answers, caches

    def _cache(self, caches: Sequence[Any], state: State | None, past: MixtureCache) -> MixtureCache:
        """What the tokens that follow are read with; members that they do not depend on are left out of it."""
        cache = MixtureCache(self.teams, past.num_texts, caches, state, past.rows)
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
            for target, source in member.get_expanded_tied_weights_keys().items()
        }
        shared = self._tied_weights_keys
        return {target: shared.get(source, source) for target, source in (shared | tied).items()}

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """Tensors that the members of a team share, with the name under which each is saved."""
        sharing = tuple(f"members.{number}." for team in self.teams if len(team) > 1 for number in team)
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
        return f"Mixture([{members}], {self.combiner})"


def check_names(members: Sequence[Member]) -> None:
    """Refuse a mixture of no members, or with two of one name.

    Raises:
        ValueError: If it is one.
    """
    if not members:
        raise ValueError("A mixture needs at least one member, got none.")
    names = [member.name for member in members]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two members are called {name!r}; give each its own name.")


def position_of(name: str, names: Sequence[str]) -> int:
    """Where a member stands among the others.

    Raises:
        ValueError: If no member has that name.
    """
    if name not in names:
        raise ValueError(f"No member is called {name!r}; there are {', '.join(names)}.")
    return list(names).index(name)


def positions_without(name: str, names: Sequence[str]) -> list[int]:
    """Where the members stand that are left without one.

    Raises:
        ValueError: If no member has that name, or it is the only one.
    """
    removed = position_of(name, names)
    if len(names) == 1:
        raise ValueError(f"{name!r} is the only member, and a mixture needs one. Add another first, or replace it.")
    return [position for position in range(len(names)) if position != removed]


def _check_members(members: Sequence[Member]) -> None:
    check_names(members)
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


def _configure(members: Sequence[Member], combiner: Combiner) -> MixtureConfig:
    configs: list[Any] = [member.network.config for member in members]
    first = configs[0]
    return MixtureConfig(
        members=describe_networks([member.network for member in members]),
        member_names=[member.name for member in members],
        combiner={"type": combiner.word, **combiner.arguments()},
        vocab_size=first.vocab_size,
        bos_token_id=first.bos_token_id,
        eos_token_id=first.eos_token_id,
        pad_token_id=first.pad_token_id,
        tie_word_embeddings=False,
        dtype=first.dtype,
    )


def _token_mask(
    input_ids: Int[Tensor, "batch position"], attention_mask: Tensor | None
) -> Bool[Tensor, "batch position"]:
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    return attention_mask[:, -input_ids.shape[1] :].bool()


def _take_rows(batch: dict[str, Tensor | None], rows: Int[Tensor, " row"] | None) -> dict[str, Tensor | None]:
    """Some texts of a batch; what all of them share has one row, and is left as it is."""
    if rows is None:
        return batch
    return {name: value if value is None or len(value) == 1 else value[rows] for name, value in batch.items()}


def _ask_team(
    networks: Sequence[Any], parts: Sequence[dict[str, Tensor | None]], cache: Any, options: dict[str, Any]
) -> tuple[list[Tensor], Any]:
    if not networks:
        return [], None
    if len(networks) > 1:
        return run_together(networks, parts, cache, **options)
    output = networks[0](**parts[0], past_key_values=cache, **options)
    return [output.logits], output.past_key_values


def _stack_logits(
    answers: Sequence[Tensor | None], rows: Sequence[Int[Tensor, _] | None], batch_size: int
) -> Float[Tensor, "member batch position vocab"]:
    """The members' scores; zeros for texts on which a member was not run."""
    first = next(logits for logits in answers if logits is not None)
    stacked = []
    for logits, of_member in zip(answers, rows, strict=True):
        if of_member is not None:
            spread = first.new_zeros((batch_size, *first.shape[1:]))
            stacked.append(spread if logits is None else spread.index_copy(0, of_member, logits))
        elif logits is not None:
            stacked.append(logits)
    return torch.stack(stacked)


def _next_token_loss(logits: Float[Tensor, "batch position vocab"], labels: Int[Tensor, "batch position"]) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


AutoConfig.register("moesaic", MixtureConfig)
AutoModelForCausalLM.register(MixtureConfig, Mixture)
