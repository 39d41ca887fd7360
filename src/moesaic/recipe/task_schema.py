"""What a recipe may say of a task in which rows are answered with text: translation, for instance."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesaic.recipe.model_sections import CheckpointSection, EncoderDecoderSection, ModelSection
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
from moesaic.recipe.task_sections import TaskSection
from moesaic.tasks import GENERATIVE_TASKS, ONLY


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


class TaskTrainingSection(TrainingSection):
    """One training stage."""

    batch_size: PositiveInt = Field(128, description="Pairs in an optimizer step.")
    learning_rate: PositiveFloat = Field(3e-3, description="Highest learning rate, reached after the warm-up.")
    num_warmup_steps: Count = Field(400, description="Optimizer steps in which the learning rate rises from 0.")
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the learning rate that is left at the end of the cosine."
    )
    weight_decay: Coefficient = Field(0.01, description="Decoupled decay, as AdamW has it, on matrices only.")
    checkpoint_every: Count = Field(1000, description="Optimizer steps between checkpoints; 0 makes none.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of every label that is spread evenly over the vocabulary."
    )
    split_probability: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        exclude_if=lambda probability: not probability,
        description="Probability that a token which a BPE tokenizer merged of two is read and written as these two, "
        "drawn anew each time, so that few texts are not learned by heart. 0 splits none.",
    )


class TaskExpertsSection(Section):
    """One expert a domain: trained from scratch, or checkpoints."""

    checkpoints: dict[str, str] = Field(
        default_factory=dict, description="A folder or Hub name for each domain; these experts are taken as they are."
    )
    num_members: PositiveInt | dict[str, PositiveInt] = Field(
        1,
        description="Models of each domain, with other random seeds; the further ones make an ensemble a domain. Or of "
        "some domains by name, such as `{en-de: 4}`; the others have one.",
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
        description="Whether each of several tasks has a router of its own, over the same experts. Target languages "
        "that a tag or a prompt names always have.",
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

    def num_members_of(self, domain: str) -> int:
        """How many models of a domain are trained."""
        count = self.experts.num_members
        return count if isinstance(count, int) else count.get(domain, 1)

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
