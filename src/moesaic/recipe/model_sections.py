"""What a recipe of a task may say of its models: one section a kind of model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from moesaic.recipe.schema import Count, PositiveFloat, PositiveInt, Section


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
    "seed.split_probability",
    "experts.training.label_smoothing",
    "experts.training.split_probability",
    "router.width",
    "router.per_task",
    "router.training.label_smoothing",
    "router.training.split_probability",
    "joint.label_smoothing",
    "joint.split_probability",
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
