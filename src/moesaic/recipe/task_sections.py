"""What a recipe may say of a task: one section a task."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesaic.recipe.schema import Section
from moesaic.tasks import TRANSLATION_TEMPLATE

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
    """Conversations, in which what the assistant says is learned; an expert a domain."""

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
    learned_turns: Literal["last", "all"] = Field(
        "last",
        exclude_if=lambda which: which == "last",
        description="Which of the assistant's turns are learned: the `last`, or `all` that answer a user, each with "
        "what was said before it. Models are measured by the last.",
    )
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
