"""What a recipe may say of a task in which rows are answered with text: translation, for instance."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from moesaic.recipe.schema import (
    Coefficient,
    Count,
    DomainSection,
    PositiveFloat,
    PositiveInt,
    Section,
    TrainingSection,
)


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


class MultipleChoiceSection(Section):
    """Questions that come with choices, of which models take the likeliest; an expert a domain."""

    unused: ClassVar[tuple[str, ...]] = ("decoding.num_beams", "decoding.length_penalty")
    """Keys of a recipe that say nothing to this task."""

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


class TaskDomainSection(DomainSection):
    """One domain of a task: a language pair, a kind of document."""

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
        # Left out where it says nothing, as is the type of the default kind of model.
        exclude_if=lambda name: name is None,
        description="A field of which rows with the same value are never split up: the article of a question, say.",
    )


class EncoderDecoderSection(Section):
    """The shape of every expert and of the dense model: an encoder and a decoder (Marian's)."""

    tasks: ClassVar[tuple[str, ...]] = ("translation", "summarization", "question_answering", "multiple_choice")
    """Tasks that such models can do."""

    unused: ClassVar[tuple[str, ...]] = ()
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

    tasks: ClassVar[tuple[str, ...]] = EncoderDecoderSection.tasks
    unused: ClassVar[tuple[str, ...]] = ()

    type: Literal["causal"]
    hidden_size: PositiveInt = Field(128, description="Width of the model.")
    intermediate_size: PositiveInt = Field(384, description="Width of each feed-forward layer.")
    num_layers: PositiveInt = Field(6, description="Number of layers.")
    num_attention_heads: PositiveInt = Field(4, description="Attention heads of every layer.")


_WRITING = (
    "data.max_source_tokens",
    "data.max_target_tokens",
    "decoding",
    "seed.label_smoothing",
    "experts.training.label_smoothing",
    "router.width",
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
    EncoderDecoderSection | CausalSection | SentenceScorerSection | SpanReaderSection,
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


class TaskRouterSection(Section):
    """The router that reads a source and chooses one expert for it."""

    width: PositiveInt = Field(64, description="Width of the router's token embeddings.")
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
    task: Annotated[
        TranslationSection | SummarizationSection | QuestionAnsweringSection | MultipleChoiceSection,
        Field(discriminator="type"),
    ] = Field(description="What models do.")
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
