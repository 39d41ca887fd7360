"""What a recipe may say: one frozen, typed model a section; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Coefficient = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class JsonLinesSource(Section):
    """Documents from a JSONL file, one JSON object a line; ``.gz`` is unpacked."""

    type: Literal["jsonl"]
    path: str = Field(description="The file, relative to the recipe.")
    field: str = Field("text", description="The key that holds the document.")
    where: dict[str, str] = Field(
        default_factory=dict, description="Values of other keys; lines with other values are left out."
    )


class ParquetSource(Section):
    """Documents from a Parquet file."""

    type: Literal["parquet"]
    path: str = Field(description="The file, relative to the recipe.")
    field: str = Field("text", description="The column that holds the document.")


class FolderSource(Section):
    """Documents from a folder of UTF-8 text files, one a file."""

    type: Literal["folder"]
    path: str = Field(description="The folder, relative to the recipe.")
    pattern: str = Field("**/*.txt", description="Which files.")


class HubSource(Section):
    """Documents from a dataset on the Hugging Face Hub, or a folder that the datasets library reads."""

    type: Literal["hub"]
    name: str = Field(description="The dataset's name on the Hub.")
    config: str | None = Field(None, description="The dataset's configuration, where it has several.")
    split: str = Field("train", description="Which of the dataset's splits to read; moesaic splits it anew.")
    field: str = Field("text", description="The column that holds the document.")
    revision: str | None = Field(None, description="A commit or tag, so that the data stays what it is.")


class MachineSource(Section):
    """Text that is already on this machine: nothing is downloaded."""

    type: Literal["machine"]
    kind: Literal["python_source", "docstrings", "cpp_headers", "messages", "licences"] = Field(
        description="The standard library's source, English prose from docstrings, the C++ headers that come with "
        "PyTorch, the operating system's message catalogues in another language, or software licences."
    )
    language: str | None = Field(None, description="The language of the messages, such as `de`.")
    fallback: Literal["python_source", "docstrings", "cpp_headers", "licences"] | None = Field(
        None, description="The kind to read instead, with a warning, where this machine has too little of the first."
    )


Source = Annotated[
    JsonLinesSource | ParquetSource | FolderSource | HubSource | MachineSource, Field(discriminator="type")
]


class DomainSection(Section):
    """One domain: an expert is trained on it, and every row of the arena is measured on it."""

    name: Name = Field(description="What the domain and its expert are called: letters, digits, `-` and `_`.")
    source: Source = Field(description="Where its documents come from.")
    validation: Source | None = Field(
        None,
        description="Where its validation documents come from; `data.validation_fraction` of the source if not given.",
    )
    test: Source | None = Field(
        None, description="Where its test documents come from; `data.test_fraction` of the source if not given."
    )


class DataSection(Section):
    """The text, and how it becomes tokens."""

    domains: Annotated[tuple[DomainSection, ...], Field(min_length=1, strict=False)] = Field(
        description="The domains, in the order of the experts; two or more, unless `num_clusters` is given."
    )
    num_clusters: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Domains to find among all documents, of the same size, by the words that they use: `cluster-1` "
        "and so on take the place of the domains above.",
    )
    sequence_length: Annotated[int, Field(ge=8)] = Field(128, description="Tokens that the models read in a sequence.")
    vocab_size: Annotated[int, Field(ge=257)] = Field(
        1024, description="Tokens of the byte-level BPE tokenizer that is trained where no model brings one."
    )
    max_megabytes: PositiveFloat | None = Field(
        None, description="Text read of each domain, in millions of bytes; all of it if not given."
    )
    validation_fraction: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.05, description="Share of the documents that is set aside for fitting routers."
    )
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.05, description="Share of the documents that is set aside for the arena."
    )


class TrainingSection(Section):
    """One training stage."""

    num_steps: Count = Field(description="Number of optimizer steps; 0 leaves the stage out.")
    batch_size: PositiveInt = Field(32, description="Sequences in an optimizer step.")
    learning_rate: PositiveFloat = Field(1e-3, description="Highest learning rate, reached after the warm-up.")
    learning_rate_scales: dict[str, Coefficient] = Field(
        default_factory=dict,
        description="Factor on the learning rate of the parameters whose name matches a pattern such as `*self_attn*`; "
        "the last pattern that matches counts, 0 freezes.",
    )
    num_warmup_steps: Count = Field(20, description="Optimizer steps in which the learning rate rises from 0.")
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Share of the learning rate that is left at the end of the cosine."
    )
    weight_decay: Coefficient = Field(0.1, description="Decoupled decay, as AdamW has it, on matrices only.")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        exclude_if=lambda name: name == "adamw",
        description="`muon` takes the steps of the layers' matrices and leaves the rest to AdamW: it learns more in a "
        "step, and a step takes a little longer.",
    )
    max_grad_norm: PositiveFloat = Field(1.0, description="Longer gradients are scaled down to this length.")
    gradient_accumulation_steps: PositiveInt = Field(
        1, description="Parts in which a batch is worked through, to save memory."
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="`auto` is bfloat16 where the hardware multiplies it, float32 elsewhere."
    )
    checkpoint_every: Count = Field(100, description="Optimizer steps between checkpoints; 0 makes none.")
    averaged_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        # Left out where it says nothing, so that what was trained before it came stays valid.
        exclude_if=lambda share: share == 0,
        description="Share of the steps, the last ones, over which the trained weights are averaged; 0 takes the "
        "weights of the last step.",
    )


class SeedSection(Section):
    """The dense model from which the experts branch: a new one of the given size, or a checkpoint."""

    checkpoint: str | None = Field(
        None, description="A folder or Hub name; the sizes below are then the checkpoint's own."
    )
    family: Literal["llama", "qwen3"] = Field("llama", description="The shape of a new model.")
    hidden_size: PositiveInt = Field(128, description="Width of the model.")
    intermediate_size: PositiveInt = Field(384, description="Width of each feed-forward layer, hence of each expert.")
    num_hidden_layers: PositiveInt = Field(3, description="Number of layers.")
    num_attention_heads: PositiveInt = Field(2, description="Number of attention heads.")
    num_key_value_heads: PositiveInt | None = Field(
        None, description="Number of key and value heads; all if not given."
    )
    training: TrainingSection = Field(
        default_factory=lambda: TrainingSection(num_steps=300, learning_rate=2e-3),
        description="Training on all domains; none if not given beside a checkpoint, which is then taken as it is.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_checkpoint_as_it_is(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("checkpoint") and "training" not in values:
            return values | {"training": {"num_steps": 0}}
        return values


class AdapterSection(Section):
    """The adapter of each expert, where `experts.train` is `lora`; it needs PEFT (`moesaic[adapters]`)."""

    rank: PositiveInt = Field(8, description="Rank of the matrix that is added to a layer's.")
    alpha: PositiveFloat = Field(16.0, description="Scale of that matrix, which is divided by the rank.")
    target_modules: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="The linear layers that are adapted, in every layer of the model.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of an adapter's inputs that are dropped while it is trained."
    )
    train_embeddings: bool = Field(
        False,
        # Left out where it says nothing, so that the keys of adapters trained before there was this choice stand.
        exclude_if=lambda train: not train,
        description="Train the embeddings and the output layer beside the adapter: needed on a seed that was trained "
        "briefly. The expert is then saved merged, without its adapter by itself.",
    )


class ExpertsSection(Section):
    """One expert a domain: branches of the seed, or checkpoints."""

    checkpoints: dict[str, str] = Field(
        default_factory=dict, description="A folder or Hub name for each domain; these experts are taken as they are."
    )
    train: Literal["all", "feed_forward", "lora"] = Field(
        "all",
        description="`all` is Branch-Train; `feed_forward` freezes all else, so that nothing needs averaging "
        "(FlexOlmo's way); `lora` trains an adapter on the frozen seed and merges it into the expert.",
    )
    adapter: AdapterSection = Field(
        default_factory=AdapterSection, description="The adapters that `train: lora` trains."
    )
    training: TrainingSection = Field(
        default_factory=lambda: TrainingSection(num_steps=150), description="Training of each expert on its domain."
    )


class AssembleSection(Section):
    """How the experts become one sparse checkpoint."""

    num_experts_per_tok: PositiveInt = Field(2, description="Experts that each token is sent to in each layer.")
    shared: str = Field(
        "average",
        description="Where attention, norms and embeddings come from: `average` of the experts, `seed`, or the "
        "name of a domain.",
    )
    router: Literal["random", "prototypes", "ridge"] = Field(
        "ridge", description="How the routers begin; the arena shows all three."
    )
    router_tokens: PositiveInt = Field(
        8192, description="Tokens of each domain on which routers are fitted without training."
    )


class TopPChoice(Section):
    """Each token uses its likeliest experts, as many as reach a share of the probability."""

    type: Literal["top_p"]
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.9, description="The share that the experts used must reach.")
    entropy_coef: Coefficient = Field(0.0, description="Coefficient of the router's entropy, which keeps experts few.")


class SigmoidChoice(Section):
    """Each token uses a fixed number of experts by scores with a bias, which balances the load without a loss."""

    type: Literal["sigmoid"]
    top_k: PositiveInt = Field(2, description="Experts that each token is sent to in each layer.")
    bias_update_rate: Coefficient = Field(1e-3, description="By how much a bias is moved after an optimizer step.")


class NoisyTopKChoice(Section):
    """Each token uses a fixed number of experts by scores to which learned noise is added while training."""

    type: Literal["noisy_top_k"]
    top_k: PositiveInt = Field(2, description="Experts that each token is sent to in each layer.")


class ReLUChoice(Section):
    """Each token uses the experts with a positive score; a penalty that adapts holds their mean number."""

    type: Literal["relu"]
    num_active: PositiveFloat = Field(2.0, description="Experts that a token uses in each layer, on average.")


RouterChoice = Annotated[TopPChoice | SigmoidChoice | NoisyTopKChoice | ReLUChoice, Field(discriminator="type")]


class MixtureTrainingSection(TrainingSection):
    """One training stage of the sparse mixture."""

    choice: RouterChoice | None = Field(
        None,
        description="How routers choose experts from this stage on; `assemble.num_experts_per_tok` of them if not "
        "given. A choice keeps its own balance, in the place of the load-balance loss; the model that is made loads "
        "where `moesaic.moe` is imported.",
    )

    router_aux_loss_coef: Coefficient = Field(
        0.01,
        description="Coefficient of the load-balance loss, per layer over the whole batch; 1 is its value at balance.",
    )
    router_z_loss_coef: Coefficient = Field(0.001, description="Coefficient of the router z-loss.")
    router_domain_loss_coef: Coefficient = Field(
        0.0, description="Coefficient of the cross-entropy between each layer's router and the domain of the sequence."
    )


class BaggingSection(Section):
    """Members that each read their own bootstrap sample of all domains; and, beside them, a deep ensemble."""

    num_members: Annotated[int, Field(ge=2)] = Field(4, description="Number of members.")
    max_samples: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Documents drawn for each member, as a share of each domain's."
    )


class BoostingSection(Section):
    """Members that each learn what those before it left undone."""

    num_rounds: Annotated[int, Field(ge=2)] = Field(3, description="Rounds at most; the first is a plain member.")
    shrinkage: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Weight of every member after the first in stagewise boosting."
    )


class StackingSection(Section):
    """Combiners fitted on text that no expert was trained on: that of the validation split."""

    max_tokens: PositiveInt = Field(8192, description="Validation tokens of each domain, in whole documents.")
    num_steps: PositiveInt = Field(300, description="Optimizer steps of the stackers that are trained.")
    learning_rate: PositiveFloat = Field(5e-3, description="Their learning rate.")
    forgetting: Annotated[float, Field(ge=0, le=1)] = Field(
        0.95, description="Exponent on the evidence of each step back, where a stacker remembers what it read."
    )


class EnsemblesSection(Section):
    """Ensembles that are trained beside the experts, for the arena, on all domains."""

    start: Literal["seed", "scratch"] = Field(
        "seed", description="Where their members begin: at the seed, or at random weights of its shape."
    )
    training: TrainingSection | None = Field(
        None,
        description="Training of each member, round or of all snapshots together. If not given: the experts', with as "
        "many steps as give the ensemble the tokens of the whole mixture road.",
    )
    bagging: BaggingSection = Field(default_factory=BaggingSection, description="Bagging and the deep ensemble.")
    boosting: BoostingSection = Field(default_factory=BoostingSection, description="Both forms of boosting.")
    num_snapshots: Annotated[int, Field(ge=2)] = Field(4, description="Snapshots of one training.")
    stacking: StackingSection = Field(default_factory=StackingSection, description="Stackers over the experts.")


class BudgetSection(Section):
    """What a row of the arena may use, its members' training included."""

    training_tokens: PositiveInt | None = Field(
        None, description="Training tokens; those of the whole mixture road if not given."
    )
    training_flops: PositiveFloat | None = Field(None, description="Training FLOPs; not limited if not given.")


class ArenaSection(Section):
    """The table in which every way of combining the experts is measured."""

    combinations: Literal["road", "standard"] | Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        "road",
        description="What is measured: `road` is what the recipe makes anyway and the ensembles that need no training, "
        "`standard` is everything, a list names what it wants.",
    )
    num_seeds: PositiveInt = Field(
        1, description="Times that `moesaic arena` goes the road, each with the next random seed."
    )
    budget: BudgetSection = Field(default_factory=BudgetSection, description="What a row may use in all.")
    max_tokens: PositiveInt = Field(16384, description="Test tokens of each domain, in whole documents.")
    batch_size: PositiveInt = Field(16, description="Sequences measured at once.")
    num_resamples: PositiveInt = Field(1000, description="Bootstrap resamples behind each confidence interval.")


class Recipe(Section):
    """The whole road: data, seed, experts, assemble, router, joint, arena."""

    random_seed: Count = Field(0, description="Makes every random choice.")
    data: DataSection = Field(description="The text.")
    seed: SeedSection = Field(default_factory=SeedSection, description="The dense model from which the experts branch.")
    experts: ExpertsSection = Field(default_factory=ExpertsSection, description="One expert a domain.")
    assemble: AssembleSection = Field(default_factory=AssembleSection, description="The sparse checkpoint.")
    router: MixtureTrainingSection = Field(
        default_factory=lambda: MixtureTrainingSection(num_steps=25, learning_rate=5e-3),
        description="Training of the routers alone, all else frozen.",
    )
    joint: MixtureTrainingSection = Field(
        default_factory=lambda: MixtureTrainingSection(num_steps=150), description="Training of everything."
    )
    ensembles: EnsemblesSection = Field(
        default_factory=EnsemblesSection, description="Ensembles that the arena may measure beside the mixture."
    )
    arena: ArenaSection = Field(default_factory=ArenaSection, description="The table.")

    @property
    def choice_at_the_end(self) -> RouterChoice | None:
        """How the final mixture's routers choose: as the last stage of its training that says it."""
        said = [section.choice for section in (self.joint, self.router) if section.num_steps and section.choice]
        return said[0] if said else None

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The domains' names, which are the experts' names too."""
        if self.data.num_clusters is not None:
            return tuple(f"cluster-{number}" for number in range(1, self.data.num_clusters + 1))
        return tuple(domain.name for domain in self.data.domains)
