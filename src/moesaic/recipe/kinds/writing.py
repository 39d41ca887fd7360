"""Models that write their answers, whether they read the source with an encoder or as the beginning of a text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerBase,
)

from moesaic.answering import Answerer, WritingAnswerer
from moesaic.combiners import Average, BySource, Hard
from moesaic.data import (
    PairDomain,
    PairSampler,
    TokenizedPairs,
    TokenSplits,
    mix_domains,
    telling_tokens,
    tokenize_pairs,
    train_pair_tokenizer,
)
from moesaic.errors import CheckpointError, IncompatibleMembersError, first_sentence
from moesaic.members import CausalLM, Decoding, load_network, load_tokenizer, model_folder, read_checkpoint
from moesaic.mixture import Mixture
from moesaic.recipe.kinds.kind import Fit, ModelKind
from moesaic.recipe.model_sections import CausalSection, EncoderDecoderSection
from moesaic.recipe.stage_work import SPLITS
from moesaic.recipe.task_build import build_task_options
from moesaic.recipe.task_schema import TaskTrainingSection
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.tasks import TaskSet, end_of_turn, task_tag, tokenize_chats
from moesaic.training import (
    ROUTER_ONLY,
    RoutedSequenceToSequence,
    SequenceToSequence,
    SourceRouting,
    TrainingOptions,
    balance_tasks,
    cheap_dropout,
    use_short_attention,
)


@dataclass(frozen=True)
class WritingKind(ModelKind):
    """Transformers models that write; all share one tokenizer."""

    library: ClassVar[str] = "transformers"
    answerer: ClassVar[type[Answerer]] = WritingAnswerer

    @property
    @abstractmethod
    def mixture(self) -> type[Mixture]:
        """What several of them make."""

    @property
    def trained(self) -> Mapping[str, float]:
        """Learning-rate scales of what is trained; everything if empty."""
        return {}

    @abstractmethod
    def start(self, domains: Sequence[int]) -> Any:
        """The network that training on some domains begins with."""

    @abstractmethod
    def check_config(self, config: Any, folder: Path) -> None:
        """Refuse a checkpoint of another kind.

        Raises:
            CheckpointError: If it is one.
        """

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that all models share."""
        return AutoTokenizer.from_pretrained(self.data / "tokenizer")

    def prepare(self, domains: Sequence[PairDomain], tasks: TaskSet, output: Path) -> Iterator[str]:
        """See :meth:`ModelKind.prepare`: a tokenizer where no model brings one, and the tokens of every split."""
        section = self.recipe.data
        tokenizer = self._make_tokenizer(domains, tasks)
        chats, how = self._set_chat_template(tokenizer, tasks)
        if how:
            yield how
        tokenizer.model_max_length = section.max_source_tokens  # which the saved model then knows
        tokenizer.save_pretrained(output / "tokenizer")
        for domain in domains:
            for split in SPLITS:
                pairs = getattr(domain, split)
                tokens, cut = (tokenize_chats if chats else tokenize_pairs)(
                    pairs,
                    tokenizer,
                    max_source_tokens=section.max_source_tokens,
                    max_target_tokens=section.max_target_tokens,
                )
                tokens.save(output / f"{domain.name}.{split}.safetensors")
                yield f"{domain.name}, {split}: {len(pairs):,} pairs, {tokens.num_tokens:,} tokens; {cut}"

    def _make_tokenizer(self, domains: Sequence[PairDomain], tasks: TaskSet) -> PreTrainedTokenizerBase:
        if self.given_checkpoints:
            return load_shared_tokenizer(self.given_checkpoints)
        texts = (text for domain in domains for pair in domain.train for text in (pair.source, pair.target))
        return train_pair_tokenizer(texts, self.recipe.data.vocab_size, tags=tasks.tags)

    def _set_chat_template(self, tokenizer: PreTrainedTokenizerBase, tasks: TaskSet) -> tuple[bool, str]:
        """Leave a chat template to the tokenizer only where models are to read it, as saved models then do.

        Returns:
            Whether they do, and what the run says of it.
        """
        if self.mixture is Seq2SeqMixture:
            tokenizer.chat_template = None
            return False, ""
        own = tokenizer.chat_template or tasks.default_chat_template
        tokenizer.chat_template = own if tasks.chat_template else None
        if tokenizer.chat_template:
            end = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))
            return True, f"sources are read in the tokenizer's chat template, and {end} ends an answer"
        # The plain text of a conversation has it.
        if any(task.system and task.default_chat_template is None for task in tasks.tasks.values()):
            raise CheckpointError(
                "The tokenizer has no chat template, so there is no place for the system's text. Leave out task.system."
            )
        reason = "the tokenizer has no chat template" if tasks.chat_template else "it is switched off"
        return False, f"sources are read as plain text: {reason}"

    def train(
        self,
        domains: Sequence[int],
        section: TaskTrainingSection,
        seed: int,
        fit: Fit,
        start: Answerer | None = None,
    ) -> Answerer:
        """See :meth:`ModelKind.train`."""
        torch.manual_seed(seed)
        network: Any = self.start(domains) if start is None else start.network
        sampler = self._sampler(domains, section, seed)
        use_short_attention(network)
        objective = SequenceToSequence(section.label_smoothing, self._domain_weights(sampler, domains))
        with cheap_dropout():
            fit(network, sampler, objective, _options(section, sampler, seed, self.trained))
        return self._answerer(network)

    def train_router(self, experts: Mapping[str, Answerer], fit: Fit) -> Answerer:
        """See :meth:`ModelKind.train_router`."""
        section, seed = self.recipe.router.training, self.recipe.random_seed
        sampler = self._sampler(range(len(experts)), section, seed)
        combiner = BySource(
            choice=Hard(), router_width=self.recipe.router.width, seed=seed, task_tokens=self._task_tokens()
        )
        mixture = self.mixture(self._members(experts), combiner)
        fit(mixture, sampler, SourceRouting(), _options(section, sampler, seed, ROUTER_ONLY))
        return self._answerer(mixture)

    def _task_tokens(self) -> list[int]:
        """The tokens by which a source finds its router: of target languages, and of tasks where each has its own.

        Raises:
            CheckpointError: If each task is to have a router, and the experts' tokenizer does not know its tag.
        """
        tasks, vocabulary = TaskSet.load(self.data), self.tokenizer.get_vocab()
        assert tasks is not None, "the data stage writes the tasks"
        tokens: list[int] = []
        for name, task in tasks.tasks.items():
            if languages := telling_tokens(task.prompts, self.tokenizer):
                tokens += languages
            elif self.recipe.router.per_task:
                tag = task_tag(name)
                if tag not in vocabulary:
                    given = ", ".join(self.given_checkpoints.values())
                    raise CheckpointError(
                        f"{given}: the tokenizer has no token {tag}, by which a source would find the router of its "
                        "task. Set router.per_task to false: the one router then reads the whole source."
                    )
                tokens.append(vocabulary[tag])
        return tokens

    def train_jointly(self, mixture: Answerer, fit: Fit) -> Answerer:
        """See :meth:`ModelKind.train_jointly`: each expert learns what the router sends it."""
        section, seed = self.recipe.joint, self.recipe.random_seed
        domains = range(len(self.recipe.domain_names))
        sampler = self._sampler(domains, section, seed + 1)
        weights = self._domain_weights(sampler, domains)
        objective = RoutedSequenceToSequence(section.label_smoothing, section.router_domain_loss_coef, weights)
        use_short_attention(mixture.network)
        scales = {**self.trained, "combiner.*": 1.0}
        with cheap_dropout():
            fit(mixture.network, sampler, objective, _options(section, sampler, seed, scales))
        return mixture

    def average(self, members: Mapping[str, Answerer], domains: Sequence[int]) -> Answerer:
        """See :meth:`ModelKind.average`: of the probabilities of the next token."""
        return self._answerer(self.mixture(self._members(members), Average()).eval())

    def check(self, place: str | Path) -> Path:
        """See :meth:`ModelKind.check`."""
        folder = read_checkpoint(super().check(place)).path
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: Transformers cannot tell what this is: {first_sentence(error)}. No code that a "
                "checkpoint brings is run. Give one of an architecture that Transformers has."
            ) from error
        self.check_config(config, folder)
        return folder

    def load(self, place: str | Path) -> Answerer:
        """See :meth:`ModelKind.load`; all models share the run's tokenizer."""
        return self._answerer(load_network(self.check(place)))

    @property
    def decoding(self) -> Decoding:
        """How answers are written."""
        return Decoding(
            **self.recipe.decoding.model_dump(),
            max_new_tokens=self.recipe.data.max_target_tokens,
            seed=self.recipe.random_seed,
        )

    def _answerer(self, network: Any) -> WritingAnswerer:
        return WritingAnswerer(network, self.tokenizer, self.decoding)

    def _members(self, answerers: Mapping[str, Answerer]) -> list[CausalLM]:
        networks: Mapping[str, Any] = {name: answerer.network for name, answerer in answerers.items()}
        member_class = self.mixture.member_class
        return [member_class(name, network, self.tokenizer) for name, network in networks.items()]

    def _sampler(self, domains: Sequence[int], section: TaskTrainingSection, seed: int) -> PairSampler:
        names = [self.recipe.domain_names[index] for index in domains]
        tokens = [TokenizedPairs.load(self.data / f"{name}.train.safetensors") for name in names]
        mixed = mix_domains(tokens, self.recipe.balance.temperature)
        chance, data = section.split_probability, self.recipe.data
        splits = TokenSplits.of(self.tokenizer, chance) if chance else None
        limits = (data.max_source_tokens, data.max_target_tokens)
        return PairSampler(mixed, section.batch_size, self.tokenizer.pad_token_id, seed, splits, limits)

    def _domain_weights(self, sampler: PairSampler, domains: Sequence[int]) -> tuple[float, ...] | None:
        """What a token of each domain counts; ``None`` where all count the same."""
        if self.recipe.balance.loss == "tokens" or len(domains) == 1:
            return None
        tasks = [self.recipe.task_of(self.recipe.domain_names[index]) for index in domains]
        return balance_tasks([len(pairs.target_tokens) for pairs in sampler.domains], tasks)


def load_shared_tokenizer(places: Mapping[str, str]) -> PreTrainedTokenizerBase:
    """The tokenizer of several checkpoints.

    Args:
        places: Folders or Hub names, by the keys of the recipe that give them.

    Raises:
        CheckpointError: If one cannot be read.
        IncompatibleMembersError: If they do not have the same tokens.
    """
    tokenizers = {key: load_tokenizer(model_folder(place)) for key, place in places.items()}
    (first_key, first), *others = tokenizers.items()
    for key, tokenizer in others:
        if tokenizer.get_vocab() != first.get_vocab():
            raise IncompatibleMembersError(
                f"{first_key}, and {key}: these checkpoints have different tokens, and models of this type write "
                "together. Use `model: {type: checkpoint, names: {DOMAIN: FOLDER}}`, whose experts may meet at text."
            )
    return first


def _options(
    section: TaskTrainingSection, sampler: PairSampler, seed: int, scales: Mapping[str, float] | None = None
) -> TrainingOptions:
    mean_length = round(sampler.tokens_per_epoch / sampler.num_rows)  # of a source and its target
    return build_task_options(section, seed, sequence_length=mean_length, scales=scales)


@dataclass(frozen=True)
class FromScratchKind(WritingKind):
    """Models that begin with random weights."""

    @abstractmethod
    def new_network(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Any:
        """A model with random weights.

        Args:
            tokenizer: Its tokenizer.
            vocab_size: Tokens that it knows.
        """

    def start(self, domains: Sequence[int]) -> Any:
        """See :meth:`WritingKind.start`."""
        return self.new_network(self.tokenizer, len(self.tokenizer))

    def count_parameters(self) -> int:
        """See :meth:`ModelKind.count_parameters`; with as many tokens as the recipe allows."""
        vocab_size = self.recipe.data.vocab_size
        with torch.device("meta"):
            network = self.new_network(train_pair_tokenizer([], vocab_size), vocab_size)
        return sum(parameter.numel() for parameter in network.parameters())


@dataclass(frozen=True)
class EncoderDecoderKind(FromScratchKind):
    """Marian models from scratch, or encoder-decoder checkpoints of Transformers."""

    mixture = Seq2SeqMixture

    def new_network(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Any:
        """See :meth:`FromScratchKind.new_network`."""
        section, data = self.recipe.model, self.recipe.data
        assert isinstance(section, EncoderDecoderSection)
        config = MarianConfig(
            vocab_size=vocab_size,
            d_model=section.hidden_size,
            encoder_layers=section.num_encoder_layers,
            decoder_layers=section.num_decoder_layers,
            encoder_attention_heads=section.num_attention_heads,
            decoder_attention_heads=section.num_attention_heads,
            encoder_ffn_dim=section.intermediate_size,
            decoder_ffn_dim=section.intermediate_size,
            dropout=section.dropout,
            attention_dropout=0.0,
            activation_dropout=0.0,
            activation_function="relu",
            # Room for the token that begins a target and for the one that ends it.
            max_position_embeddings=2 + max(data.max_source_tokens, data.max_target_tokens),
            scale_embedding=True,
            share_encoder_decoder_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            decoder_start_token_id=tokenizer.pad_token_id,
            forced_eos_token_id=tokenizer.eos_token_id,
        )
        return MarianMTModel(config)

    def check_config(self, config: Any, folder: Path) -> None:
        """See :meth:`WritingKind.check_config`."""
        if not config.is_encoder_decoder:
            raise CheckpointError(
                f"{folder}: {config.model_type} has no encoder and decoder, so it cannot write an answer to a "
                "source. Give an encoder-decoder model, such as Marian, BART or T5, or set model.type to causal."
            )


@dataclass(frozen=True)
class CausalKind(FromScratchKind):
    """Llama models from scratch, or causal checkpoints of Transformers, which go on writing where the source ends."""

    mixture = Mixture

    def new_network(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Any:
        """See :meth:`FromScratchKind.new_network`."""
        section, data = self.recipe.model, self.recipe.data
        assert isinstance(section, CausalSection)
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=section.hidden_size,
            intermediate_size=section.intermediate_size,
            num_hidden_layers=section.num_layers,
            num_attention_heads=section.num_attention_heads,
            num_key_value_heads=section.num_attention_heads,
            max_position_embeddings=data.max_source_tokens + data.max_target_tokens,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        return LlamaForCausalLM(config)

    def check_config(self, config: Any, folder: Path) -> None:
        """See :meth:`WritingKind.check_config`."""
        if config.is_encoder_decoder:
            raise CheckpointError(
                f"{folder}: {config.model_type} has an encoder and a decoder. Give a causal model, such as "
                "Llama or Qwen3, or set model.type to encoder_decoder."
            )
