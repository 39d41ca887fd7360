"""What a recipe may say of a task in which rows are answered with text: translation, for instance."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from moesaic.recipe.schema import (
    Coefficient,
    Count,
    DomainSection,
    Name,
    PositiveFloat,
    PositiveInt,
    Section,
    TrainingSection,
)
from moesaic.tasks import GENERATIVE_TASKS, ONLY, TRANSLATION_TEMPLATE

SystemText = Annotated[
    str,
    Field(
        exclude_if=lambda text: not text,
        description="What causal models with a chat template are told before the source, as the system's turn.",
    ),
]
ChatTemplate = Annotated[
    bool,
    Field(
        exclude_if=lambda used: used,
        description="Have causal models read the source in their tokenizer's chat template, where it has one.",
    ),
]


class TranslationSection(Section):
    """Sentences of one language into another; an expert a language pair."""

    type: Literal["translation"]
    source_field: str = Field("source", description="The field that holds the sentence to translate.")
    target_field: str = Field("target", description="The field that holds its translation.")
    language_field: str = Field("target_lang", description="The field that holds the target language's code.")
    lowercase: bool = Field(
        False, description="Read and write lower case only, as papers on small data do; figures are then lower-cased."
    )
    target_languages: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="Languages that can be asked for; those of the training rows if not given."
    )
    template: str = Field(
        TRANSLATION_TEMPLATE,
        exclude_if=lambda template: template == TRANSLATION_TEMPLATE,
        description="What models read: `{source}`, and where wanted `{language}`. T5 reads `translate English to "
        "{language}: {source}`, a model of one language pair `{source}`. Without `{language}`, experts of different "
        "target languages need `model.names`, since nothing else in a source tells a router the language.",
    )
    language_names: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda names: not names,
        description="What `{language}` is for each code, such as `de: German`; the code itself if not given.",
    )
    target_token: str = Field(
        "",
        exclude_if=lambda token: not token,
        description="The token of a decoder's own with which targets begin, which tells it their language; "
        "`{language}` for NLLB, with `language_names` such as `de: deu_Latn`.",
    )
    system: SystemText = ""
    chat_template: ChatTemplate = True


class SummarizationSection(Section):
    """Documents into what is important about them, or about a question; an expert a kind of document."""

    type: Literal["summarization"]
    document_field: str = Field("document", description="The field that holds the document.")
    summary_field: str = Field("summary", description="The field that holds the summary.")
    references_field: str = Field(
        "references", description="The field that holds a list of several summaries; rows may lack it."
    )
    query_field: str = Field("query", description="The field that holds what to answer; rows may lack it.")
    title_field: str = Field("title", description="The field that holds the title; rows may lack it.")
    domain_field: str = Field("domain", description="The field that holds the kind of document; rows may lack it.")
    instruction: str = Field("", description="What models are asked to do where there is no query; none by default.")
    system: SystemText = ""
    chat_template: ChatTemplate = True


class QuestionAnsweringSection(Section):
    """Questions, about a text where rows have one, into short answers; an expert a domain."""

    type: Literal["question_answering"]
    template: str = Field(
        "{context}\nQuestion: {question}\nAnswer:",
        description="What models that write read: `{question}` and, where wanted, `{context}` and `{choices}`.",
    )
    language: str | None = Field(
        None,
        description="The language whose articles do not count in the scores; English, as SQuAD has it, if not given.",
    )
    system: SystemText = ""
    chat_template: ChatTemplate = True


class ChatSection(Section):
    """Conversations, of which the assistant's last turn is learned; an expert a domain."""

    type: Literal["chat"]
    messages_field: str = Field(
        "messages", description="The field that holds a conversation: a list of turns, each with `role` and `content`."
    )
    prompt_field: str = Field(
        "prompt", description="The field that holds what the user says, in rows without a conversation."
    )
    response_field: str = Field(
        "response",
        description="The field that holds what the assistant answers to it, or a list of right answers, of which the "
        "first is learned.",
    )
    system_field: str = Field("system", description="The field that holds the system's text; rows may lack it.")
    system: SystemText = ""
    chat_template: ChatTemplate = True


class MultipleChoiceSection(Section):
    """Questions that come with choices, of which models take the likeliest; an expert a domain."""

    unused: ClassVar[tuple[str, ...]] = ("decoding.num_beams", "decoding.length_penalty")
    """Keys of a recipe that say nothing to this task."""

    chat_template: ClassVar[bool] = False
    """Choices are scored as plain text goes on."""

    type: Literal["multiple_choice"]
    template: str = Field(
        "Question: {question}\n{choices}\n{context}\nAnswer:",
        description="What models read: `{question}` and, where wanted, `{choices}` and `{context}`. Of sources that "
        "are too long the beginning is read, so the context comes late.",
    )
    normalization: Literal["none", "tokens", "bytes"] = Field(
        "none",
        description="What the log-probability of a choice is divided by: nothing, its number of tokens, or its bytes "
        "of UTF-8.",
    )
    fixed_choices: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="What every question is answered by, where rows have no field `choices`; `answers` says which."
    )


TaskSection = Annotated[
    TranslationSection | SummarizationSection | QuestionAnsweringSection | MultipleChoiceSection | ChatSection,
    Field(discriminator="type"),
]
"""What a task may be."""


class TaskDomainSection(DomainSection):
    """One domain of a task: a language pair, a kind of document."""

    task: str | None = Field(
        None,
        # Left out where it says nothing, as are all keys that are younger than runs whose stages are to stay valid.
        exclude_if=lambda name: name is None,
        description="Which of `tasks` its rows are of; only where there are several.",
    )
    group_field: str | None = Field(
        None,
        exclude_if=lambda name: name is None,
        description="A field of which rows with the same value are never split up; `data.group_field` if not given.",
    )
    fields: dict[str, str] = Field(
        default_factory=dict, description="Fields that rows lack, the same for all of them, such as `target_lang: de`."
    )


class TaskDataSection(Section):
    """The rows, and how they become tokens."""

    domains: Annotated[tuple[TaskDomainSection, ...], Field(min_length=2, strict=False)] = Field(
        description="The domains, in the order of the experts; two or more. Sources must have fields: `jsonl`, "
        "`parquet` or `hub`."
    )
    vocab_size: Annotated[int, Field(ge=280)] = Field(
        6000, description="Tokens of the byte-level BPE tokenizer that is trained where no model brings one."
    )
    max_source_tokens: Annotated[int, Field(ge=8)] = Field(
        128, description="Tokens of a source that models read; of longer ones the beginning, and the run says how many."
    )
    max_target_tokens: Annotated[int, Field(ge=8)] = Field(
        128, description="Tokens of a target that models learn to write, and write at most."
    )
    validation_fraction: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.05, description="Share of the rows for validation, where these have no source."
    )
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.05, description="Share of the rows that the arena measures on, where these have no source."
    )
    group_field: str | None = Field(
        None,
        exclude_if=lambda name: name is None,
        description="A field of which rows with the same value are never split up: the article of a question, say.",
    )


class EncoderDecoderSection(Section):
    """The shape of every expert and of the dense model: an encoder and a decoder (Marian's)."""

    tasks: ClassVar[tuple[str, ...]] = ("translation", "summarization", "question_answering", "multiple_choice")
    """Tasks that such models can do."""

    unused: ClassVar[tuple[str, ...]] = ("task.system", "task.chat_template")
    """Keys of a recipe that say nothing to such models."""

    # It is left out where settings are hashed, so that stages made before there were other kinds stay valid.
    type: Literal["encoder_decoder"] = Field("encoder_decoder", exclude=True, description="Models that write.")
    hidden_size: PositiveInt = Field(128, description="Width of the model.")
    intermediate_size: PositiveInt = Field(256, description="Width of each feed-forward layer.")
    num_encoder_layers: PositiveInt = Field(4, description="Layers of the encoder.")
    num_decoder_layers: PositiveInt = Field(4, description="Layers of the decoder.")
    num_attention_heads: PositiveInt = Field(4, description="Attention heads of every layer.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="Share of activations dropped in training.")


class CausalSection(Section):
    """The shape of every expert and of the dense model: a causal one (Llama's), which reads the source as a prompt."""

    tasks: ClassVar[tuple[str, ...]] = (*EncoderDecoderSection.tasks, "chat")
    unused: ClassVar[tuple[str, ...]] = ()

    type: Literal["causal"]
    hidden_size: PositiveInt = Field(128, description="Width of the model.")
    intermediate_size: PositiveInt = Field(384, description="Width of each feed-forward layer.")
    num_layers: PositiveInt = Field(6, description="Number of layers.")
    num_attention_heads: PositiveInt = Field(4, description="Attention heads of every layer.")


class TaskAdapterSection(Section):
    """The adapter of each model; it needs PEFT (`moesaic[adapters]`)."""

    rank: PositiveInt = Field(8, description="Rank of the matrix that is added to a layer's.")
    alpha: PositiveFloat = Field(16.0, description="Scale of that matrix, which is divided by the rank.")
    target_modules: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = Field(
        None, description="The linear layers that are adapted; all but the output layer if not given."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of an adapter's inputs that are dropped while it is trained."
    )


class CheckpointSection(Section):
    """Every model starts from a checkpoint that writes, causal or encoder and decoder, with its own tokenizer."""

    tasks: ClassVar[tuple[str, ...]] = CausalSection.tasks
    unused: ClassVar[tuple[str, ...]] = ("data.vocab_size", "experts.checkpoints")

    type: Literal["checkpoint"]
    name: str | None = Field(
        None,
        description="A folder or Hub name. Without it there is no dense model, and `names` must have all domains.",
    )
    names: dict[str, str] = Field(
        default_factory=dict,
        description="A folder or Hub name for each domain whose expert starts from another checkpoint. Where their "
        "tokenizers differ, experts meet at text: a router over words chooses one, which reads and answers alone. With "
        "`experts.training.num_steps: 0` they are taken as they are.",
    )
    adapter: TaskAdapterSection | None = Field(
        None,
        description="Train a LoRA adapter for each model, over the one checkpoint, which stays as it is and is held "
        "once. Without this key, models are trained whole.",
    )


_WRITING = (
    "task.system",
    "task.chat_template",
    "balance",
    "data.max_source_tokens",
    "data.max_target_tokens",
    "decoding",
    "seed.label_smoothing",
    "experts.training.label_smoothing",
    "router.width",
    "router.per_task",
    "router.training.label_smoothing",
    "joint.label_smoothing",
    "joint.router_domain_loss_coef",
)
"""Keys that say nothing to models which take their answers from the text."""


class SentenceScorerSection(Section):
    """Every expert and the dense model score the sentences of a document, and summaries are made of the best."""

    tasks: ClassVar[tuple[str, ...]] = ("summarization",)
    unused: ClassVar[tuple[str, ...]] = (*_WRITING, "data.vocab_size", "seed")

    type: Literal["sentence_scorer"]
    features: Annotated[tuple[Literal["cues", "words"], ...], Field(min_length=1, strict=False)] = Field(
        ("cues",),
        description="What is read of a sentence: `cues` (its place, its length, its likeness to document, query and "
        "title), or `words` too. Of several, each is tried, and the best on validation documents is kept.",
    )
    hidden_size: PositiveInt = Field(64, description="Width of the scorer.")
    words_size: PositiveInt = Field(32, description="Numbers that the words of a sentence become.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Share of activations dropped in training.")
    max_words: PositiveInt = Field(1500, description="Words of a document that are read; longer ones are cut.")
    cut: Literal["head", "head_tail", "lead_by_query"] = Field(
        "lead_by_query",
        description="What is kept of documents that are too long: the beginning, beginning and end, or the sentences "
        "most similar to the query (the beginning, where there is none).",
    )


class SpanReaderSection(Section):
    """Every expert and the dense model read answers in the text that a question is about (a BERT)."""

    tasks: ClassVar[tuple[str, ...]] = ("question_answering",)

    type: Literal["span_reader"]
    encoder: str | None = Field(
        None,
        description="A folder or Hub name of an encoder to start every model from; the sizes below are then its own.",
    )
    hidden_size: PositiveInt = Field(128, description="Width of the model.")
    intermediate_size: PositiveInt = Field(512, description="Width of each feed-forward layer.")
    num_hidden_layers: PositiveInt = Field(3, description="Number of layers.")
    num_attention_heads: PositiveInt = Field(4, description="Attention heads of every layer.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Share of activations dropped in training.")
    max_length: Annotated[int, Field(ge=96)] = Field(
        256, description="Tokens of a window, with the question; longer texts are read in several."
    )
    stride: Count = Field(64, description="Tokens that neighbouring windows share.")
    max_answer_tokens: PositiveInt = Field(30, description="Tokens of an answer at most.")

    @property
    def unused(self) -> tuple[str, ...]:
        """Keys of a recipe that say nothing to such models."""
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "dropout")
        given = ("data.vocab_size", *(f"model.{size}" for size in sizes)) if self.encoder else ()
        return (*_WRITING, *given)


def _name_default_kind(section: Any) -> Any:
    return {"type": "encoder_decoder"} | section if isinstance(section, dict) else section


ModelSection = Annotated[
    EncoderDecoderSection | CausalSection | CheckpointSection | SentenceScorerSection | SpanReaderSection,
    Field(discriminator="type"),
    BeforeValidator(_name_default_kind),
]
"""What every model of a recipe is."""


class TaskTrainingSection(TrainingSection):
    """One training stage."""

    batch_size: PositiveInt = Field(128, description="Pairs in an optimizer step.")
    learning_rate: PositiveFloat = Field(3e-3, description="Highest learning rate, reached after the warm-up.")
    num_warmup_steps: Count = Field(400, description="Optimizer steps in which the learning rate rises from 0.")
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the learning rate that is left at the end of the cosine."
    )
    weight_decay: Coefficient = Field(0.01, description="AdamW's decay, on matrices only.")
    checkpoint_every: Count = Field(1000, description="Optimizer steps between checkpoints; 0 makes none.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of every label that is spread evenly over the vocabulary."
    )


class TaskExpertsSection(Section):
    """One expert a domain: trained from scratch, or checkpoints."""

    checkpoints: dict[str, str] = Field(
        default_factory=dict, description="A folder or Hub name for each domain; these experts are taken as they are."
    )
    num_members: PositiveInt = Field(
        1, description="Models of each domain, with other random seeds; the further ones make an ensemble a domain."
    )
    training: TaskTrainingSection = Field(
        default_factory=lambda: TaskTrainingSection(num_steps=5000), description="Training of each on its domain."
    )


class BalanceSection(Section):
    """How domains and tasks count where one model learns several: the dense model, the router, joint training."""

    temperature: Annotated[float, Field(ge=1)] = Field(
        1.0,
        description="How often pairs are read: a domain's share of them is its number of pairs to the power of 1 over "
        "this. 1 reads all pairs equally often, more repeats those of smaller domains.",
    )
    loss: Literal["tokens", "tasks"] = Field(
        "tokens",
        description="What counts the same in the loss: every token, so that tasks with long targets count more, or "
        "every task.",
    )


class TaskRouterSection(Section):
    """The router that reads a source and chooses one expert for it."""

    width: PositiveInt = Field(64, description="Width of the router's token embeddings.")
    per_task: bool = Field(
        False,
        exclude_if=lambda per_task: not per_task,
        description="Whether each of several tasks has a router of its own, over the same experts.",
    )
    training: TaskTrainingSection = Field(
        default_factory=lambda: TaskTrainingSection(num_steps=300, learning_rate=1e-2, num_warmup_steps=20),
        description="Training of the router alone, on the domains' names.",
    )


class TaskJointSection(TaskTrainingSection):
    """Training of experts and router together."""

    router_domain_loss_coef: Coefficient = Field(
        0.1, description="Coefficient of the cross-entropy between the router's scores and the domains."
    )


class DecodingSection(Section):
    """How targets are written."""

    num_beams: PositiveInt = Field(4, description="Beams that are searched; 1 always takes the likeliest token.")
    length_penalty: float = Field(1.0, description="Beams are ranked by log-probability over length to this power.")
    temperature: Annotated[float, Field(ge=0)] = Field(
        0.0,
        exclude_if=lambda temperature: not temperature,
        description="Where above 0, tokens are drawn by chance, their logits divided by it; with `num_beams: 1`.",
    )
    top_k: Count = Field(
        0, exclude_if=lambda count: not count, description="Likeliest tokens that are drawn from; 0 draws from all."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        exclude_if=lambda share: share == 1,
        description="The likeliest tokens are drawn from that have this much probability together; 1 draws from all.",
    )
    batch_size: PositiveInt = Field(50, description="Sources that are read at once.")


class TaskArenaSection(Section):
    """The table in which every system is measured."""

    max_examples: PositiveInt | None = Field(None, description="Test rows of each domain; all if not given.")
    num_resamples: PositiveInt = Field(1000, description="Bootstrap resamples behind each interval and p-value.")
    metrics: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = Field(
        None,
        description="Which of the task's metrics stand in the table, of which the first decides; all if not given.",
    )


class TaskRecipe(Section):
    """The road of a task: data, seed, experts, dense, router, joint, answers, arena."""

    random_seed: Count = Field(0, description="Makes every random choice.")
    task: TaskSection | None = Field(None, description="What models do; for all domains the same.")
    tasks: Annotated[dict[Name, TaskSection], Field(min_length=1)] | None = Field(
        None,
        description="In the place of `task`: several tasks for the same models, by name. Each is what `task` may be; "
        "each domain names one, and every source begins with its tag, `[NAME]`.",
    )
    data: TaskDataSection = Field(description="The rows.")
    model: ModelSection = Field(
        default_factory=EncoderDecoderSection,
        description="What every model is; without `type`, an `encoder_decoder`.",
    )
    seed: TaskTrainingSection = Field(
        default_factory=lambda: TaskTrainingSection(num_steps=0),
        description="Training of one model on all domains, at which the experts and the dense model then start; none "
        "if not given.",
    )
    experts: TaskExpertsSection = Field(default_factory=TaskExpertsSection, description="One expert a domain.")
    balance: BalanceSection = Field(
        default_factory=BalanceSection, description="How domains and tasks count where one model learns several."
    )
    router: TaskRouterSection = Field(default_factory=TaskRouterSection, description="Who answers to which source.")
    joint: TaskJointSection = Field(
        default_factory=lambda: TaskJointSection(num_steps=0), description="Training of everything; none if not given."
    )
    decoding: DecodingSection = Field(default_factory=DecodingSection, description="How targets are written.")
    arena: TaskArenaSection = Field(default_factory=TaskArenaSection, description="The table.")

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The domains' names, which are the experts' names too."""
        return tuple(domain.name for domain in self.data.domains)

    @property
    def given_experts(self) -> dict[str, str]:
        """A checkpoint for each domain that is its expert as it is; none where experts are trained."""
        if isinstance(self.model, CheckpointSection) and not self.experts.training.num_steps:
            return {name: self.model.names.get(name, self.model.name or "") for name in self.domain_names}
        return self.experts.checkpoints

    @property
    def has_dense(self) -> bool:
        """Whether there is a model of all domains; not where each has a checkpoint of its own and there is no other."""
        return not isinstance(self.model, CheckpointSection) or self.model.name is not None

    @property
    def named_tasks(self) -> dict[str, TaskSection]:
        """The tasks by name; the only one is called :data:`moesaic.tasks.ONLY`."""
        return {ONLY: self.task} if self.task is not None else dict(self.tasks or {})

    def task_of(self, domain: str) -> str:
        """The name of a domain's task."""
        [found] = (section.task or ONLY for section in self.data.domains if section.name == domain)
        return found

    @property
    def shared_tasks(self) -> dict[str, tuple[str, ...]]:
        """The domains of each task that has several and is one of several: a model that learns them all and no other
        task shows what tasks do to each other, apart from what domains do. None where there is no model of all.
        """
        domains = {
            name: tuple(section.name for section in self.data.domains if section.task == name)
            for name in (self.tasks or () if self.has_dense else ())
        }
        return {name: own for name, own in domains.items() if 1 < len(own) < len(self.data.domains)}

    def metrics_of(self, domain: str) -> tuple[str, ...]:
        """What systems are compared by on a domain, of all that its task is measured by; the first decides."""
        of_task = GENERATIVE_TASKS[self.named_tasks[self.task_of(domain)].type].metrics
        chosen = self.arena.metrics
        return of_task if chosen is None else tuple(metric for metric in chosen if metric in of_task)
