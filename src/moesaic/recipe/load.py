"""From a YAML file to a checked recipe. Only this folder knows that YAML exists."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from moesaic.errors import RecipeError
from moesaic.members import Decoding
from moesaic.recipe.build import build_router_choice
from moesaic.recipe.model_sections import CheckpointSection, EncoderDecoderSection
from moesaic.recipe.schema import Recipe, Section
from moesaic.recipe.task_build import build_task
from moesaic.recipe.task_checkpoints import check_checkpoints
from moesaic.recipe.task_schema import TaskRecipe
from moesaic.recipe.task_sections import MultipleChoiceSection
from moesaic.tasks import GENERATIVE_TASKS, ONLY

_Recipe = TypeVar("_Recipe", bound=Section, covariant=True)


@dataclass(frozen=True)
class LoadedRecipe(Generic[_Recipe]):
    """A recipe and where it came from.

    Attributes:
        recipe: What it says.
        path: The file.
        text: The file, verbatim, followed by what was set on the command line.
    """

    recipe: _Recipe
    path: Path
    text: str

    @property
    def name(self) -> str:
        """The file's name without its ending; names the run."""
        return self.path.stem


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> LoadedRecipe[Any]:
    """Read and check a recipe: a :class:`TaskRecipe` where it names a task, a :class:`Recipe` otherwise.

    Args:
        path: The YAML file.
        settings: One-off changes, each ``dotted.key=value`` with a YAML value.

    Raises:
        RecipeError: If the file cannot be read, a key is unknown, or a value does not fit.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such file. Give the path of a recipe.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections such as data and experts, got {_show(values)}.")
    for setting in settings:
        _apply(values, setting, path)
    schema = TaskRecipe if "task" in values or "tasks" in values else Recipe
    recipe = check_values(values, path.name, schema)
    if isinstance(recipe, Recipe):
        _check_consistency(recipe, path.name)
    else:
        _check_names(recipe.domain_names, recipe.experts.checkpoints, path.name)
        _check_num_members(recipe, path.name)
        _check_tasks(recipe, path.name)
        _check_model(recipe, path.name)
        check_checkpoints(recipe, path.name)
        _check_seed(recipe, path.name)
        _check_metrics(recipe, path.name)
        _check_decoding(recipe, path.name)
    if settings:
        text += "".join(f"# --set {setting}\n" for setting in settings)
    return LoadedRecipe(recipe, path, text)


def check_values(
    values: dict[str, Any], where: str, schema: type[Recipe] | type[TaskRecipe] = Recipe
) -> Recipe | TaskRecipe:
    """Check parsed values against a schema.

    Raises:
        RecipeError: With one line for everything that does not fit.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        # A list whose entries do not fit counts as too short; that says nothing new.
        lists = {details["loc"][:length] for details in found for length in range(len(details["loc"]))}
        lines = [_explain(details, where, schema) for details in found if details["loc"] not in lists]
        raise RecipeError("\n".join(lines)) from None


def _check_consistency(recipe: Recipe, where: str) -> None:
    names, num_experts = recipe.domain_names, len(recipe.domain_names)
    if num_experts < 2:
        raise RecipeError(
            f"{where}, data.domains: there is only {names[0]!r}, and one expert is no mixture. Give two or more, or "
            "set data.num_clusters to have domains found in this one."
        )
    _check_names([domain.name for domain in recipe.data.domains], {}, where)
    listed = f"{num_experts} experts ({', '.join(names)})"
    top_k = recipe.assemble.num_experts_per_tok
    if top_k > num_experts:
        raise RecipeError(
            f"{where}, assemble.num_experts_per_tok: {top_k} is more than the {listed}. "
            f"Use 2 to {num_experts}, or add domains."
        )
    if top_k == 1:
        raise RecipeError(
            f"{where}, assemble.num_experts_per_tok: with 1, a mixture that rescales its weights to sum to 1 gives "
            "every chosen expert the weight 1, so its router cannot learn from the language-model loss. Use 2 or "
            "more."
        )
    _check_names(names, recipe.experts.checkpoints, where)
    if recipe.assemble.shared not in ("average", "seed", *names):
        raise RecipeError(
            f"{where}, assemble.shared: {recipe.assemble.shared!r} is none of average, seed, {', '.join(names)}."
        )
    _check_choices(recipe, where)


def _check_choices(recipe: Recipe, where: str) -> None:
    """Refuse choices of routers that do not fit the experts, and what a choice would ignore."""
    choice = None
    for name, section in {"router": recipe.router, "joint": recipe.joint}.items():
        if not section.num_steps and section.choice is not None:
            raise RecipeError(
                f"{where}, {name}.choice: routers would choose by {section.choice.type!r} in a stage that is left out. "
                f"Set {name}.num_steps above 0, or leave the choice out."
            )
        if section.choice is not None:
            choice = section.choice
            try:
                made = build_router_choice(choice)
                made.attach(len(recipe.domain_names), 1)
                reason = made.why_no_gradient("logit")
            except ValueError as error:
                reason = str(error)
            if reason:
                raise RecipeError(f"{where}, {name}.choice: {reason}")
        for key in ("router_aux_loss_coef", "router_domain_loss_coef"):
            if choice is not None and key in section.model_fields_set and getattr(section, key):
                raise RecipeError(
                    f"{where}, {name}.{key}: routers that choose by {choice.type!r} keep their own balance, and have "
                    "no such loss. Leave it out, or the choice."
                )


def _check_names(names: Sequence[str], checkpoints: Mapping[str, str], where: str) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise RecipeError(f"{where}, data.domains: two domains are called {name!r}. Give each its own name.")
    if checkpoints and set(checkpoints) != set(names):
        raise RecipeError(
            f"{where}, experts.checkpoints: names {', '.join(checkpoints)}, but the domains are {', '.join(names)}. "
            "Give one checkpoint a domain, or none."
        )


def _check_num_members(recipe: TaskRecipe, where: str) -> None:
    count, names = recipe.experts.num_members, recipe.domain_names
    unknown = [] if isinstance(count, int) else [name for name in count if name not in names]
    if unknown:
        raise RecipeError(
            f"{where}, experts.num_members: names {', '.join(unknown)}, but the domains are {', '.join(names)}."
        )


def _check_tasks(recipe: TaskRecipe, where: str) -> None:
    """Refuse domains whose task is not clear, tasks without a domain, and what a task cannot be made of."""
    if recipe.task is not None and recipe.tasks is not None:
        raise RecipeError(
            f"{where}, tasks: there is a task for all domains beside it. Give either task, or tasks of which each "
            "domain names one."
        )
    names, listed = recipe.named_tasks, ", ".join(recipe.named_tasks)
    for domain in recipe.data.domains:
        place = f"{where}, data.domains, {domain.name}"
        if recipe.task is not None and domain.task is not None:
            raise RecipeError(
                f"{place}: it names the task {domain.task!r}, and the recipe has one task for all domains. Leave the "
                "name out, or give tasks in the place of task."
            )
        if recipe.task is None and domain.task is None:
            raise RecipeError(f"{place}: it names no task. Add task: and one of {listed}.")
        if recipe.task is None and domain.task not in names:
            raise RecipeError(f"{place}: there is no task {domain.task!r}; there are {listed}.")
    of_several = {"router.per_task": recipe.router.per_task, "balance.loss": recipe.balance.loss == "tasks"}
    for key, is_of_several in of_several.items():
        if recipe.task is not None and is_of_several:
            raise RecipeError(
                f"{where}, {key}: the recipe has one task. Leave it out, or give tasks in the place of task."
            )
    for name in recipe.tasks or ():
        if name not in {domain.task for domain in recipe.data.domains}:
            raise RecipeError(f"{where}, tasks.{name}: no domain names this task. Give it a domain, or leave it out.")
    for name, section in names.items():
        try:
            build_task(section)
        except ValueError as error:  # it begins with the key that does not fit
            raise RecipeError(f"{where}, {'task' if name == ONLY else f'tasks.{name}'}.{error}") from None
    if len({section.chat_template for section in names.values()}) > 1:
        raise RecipeError(
            f"{where}, tasks: some tasks read their tokenizer's chat template and some do not, and one tokenizer "
            "serves them all. Give them the same chat_template."
        )


def _check_model(recipe: TaskRecipe, where: str) -> None:
    """Refuse tasks that models of this kind cannot do, and keys that say nothing to them."""
    word = recipe.model.type
    for section in recipe.named_tasks.values():
        if section.type not in recipe.model.tasks:
            writer = "encoder_decoder" if section.type in EncoderDecoderSection.tasks else "causal"
            raise RecipeError(
                f"{where}, model.type: models of the type {word!r} cannot do {section.type}, only "
                f"{', '.join(recipe.model.tasks)}. Use {writer}, whose models write."
            )
    for key in recipe.model.unused:
        if _is_given(recipe, key.split(".")):
            raise RecipeError(
                f"{where}, {key}: this says nothing to the models of this recipe, of the type {word!r}. Leave it out."
            )
    if isinstance(recipe.task, MultipleChoiceSection):
        for key in recipe.task.unused:
            if _is_given(recipe, key.split(".")):
                raise RecipeError(f"{where}, {key}: this says nothing to the task {recipe.task.type}. Leave it out.")


def _check_seed(recipe: TaskRecipe, where: str) -> None:
    if recipe.seed.num_steps and recipe.experts.checkpoints:
        raise RecipeError(
            f"{where}, seed: the experts are checkpoints, so none of them would start at the seed. Leave out seed or "
            "experts.checkpoints."
        )
    if recipe.seed.num_steps and isinstance(recipe.model, CheckpointSection) and recipe.model.names:
        raise RecipeError(
            f"{where}, seed: some experts start from checkpoints of their own, model.names, and not at the seed. Leave "
            "out seed or model.names."
        )


def _check_metrics(recipe: TaskRecipe, where: str) -> None:
    """Refuse metrics that no task is measured by, and a choice of metrics that leaves a task without any."""
    known = {section.type: GENERATIVE_TASKS[section.type].metrics for section in recipe.named_tasks.values()}
    chosen = recipe.arena.metrics or ()
    for metric in chosen:
        if not any(metric in metrics for metrics in known.values()):
            by_task = "; ".join(
                f"{task} is not measured by {metric!r}, but by {', '.join(metrics)}" for task, metrics in known.items()
            )
            raise RecipeError(f"{where}, arena.metrics: {by_task}.")
    for task, metrics in known.items():
        if chosen and not set(chosen) & set(metrics):
            raise RecipeError(
                f"{where}, arena.metrics: {task} is measured by none of {', '.join(chosen)}. Add one of "
                f"{', '.join(metrics)}."
            )


def _check_decoding(recipe: TaskRecipe, where: str) -> None:
    try:
        Decoding(**recipe.decoding.model_dump())
    except ValueError as error:
        raise RecipeError(f"{where}, decoding: {error}") from None


def _is_given(section: Section, keys: Sequence[str]) -> bool:
    first, *rest = keys
    if first not in section.model_fields_set:
        return False
    return not rest or _is_given(getattr(section, first), rest)


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number and refuses a key that stands twice."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def _parse(text: str, where: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise RecipeError(f"{place}: {error.problem or 'this is not YAML'}. A recipe is a YAML file.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: this is not YAML ({error}).") from None


def _apply(values: dict[str, Any], setting: str, path: Path) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {setting}: write dotted.key=value, for instance joint.num_steps=10.")
    *parents, last = key.split(".")
    target: Any = values
    for position, parent in enumerate(parents):
        place = ".".join(parents[: position + 1])
        try:
            target = target[int(parent)] if isinstance(target, list) else target.setdefault(parent, {})
        except (ValueError, IndexError, AttributeError):
            raise RecipeError(f"--set {setting}: {path.name} has no {place}.") from None
    parsed = _parse(value, f"--set {setting}")
    if isinstance(target, list) and last.isdigit() and int(last) < len(target):
        target[int(last)] = parsed
    elif isinstance(target, dict):
        target[last] = parsed
    else:
        raise RecipeError(f"--set {setting}: {path.name} has no {key}.")


def _explain(details: ErrorDetails, where: str, schema: type[BaseModel]) -> str:
    unknown = details["type"] == "extra_forbidden"
    location, models = _walk(details["loc"][:-1] if unknown else details["loc"], schema)
    place = f"{where}, {location}" if location else where
    if unknown:
        key = details["loc"][-1]
        known = list(dict.fromkeys(name for model in models for name in model.model_fields))
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(known)}."
        return f"{place}: unknown key {key!r}. {hint}"
    if details["type"] == "missing":
        return f"{place}: this key is needed, and missing."
    message = details["msg"][0].lower() + details["msg"][1:]
    return f"{place}: {_show(details['input'])} does not fit: {message}."


def _walk(location: Sequence[int | str], schema: type[BaseModel]) -> tuple[str, list[type[BaseModel]]]:
    """Follow pydantic's path through a schema.

    Returns:
        The path as a recipe spells it, and the models that can stand at its end.
    """
    models: list[type[BaseModel]] = [schema]
    spelled: list[str] = []
    by_name = False
    for part in location:
        chosen = [model for model in models if len(models) > 1 and _word(model) == part]
        if chosen:  # pydantic names the kind of section that it tried; a recipe has no such key
            models = chosen
            continue
        spelled.append(str(part))
        if by_name:  # a name that the recipe gives
            by_name = False
        elif isinstance(part, str):
            annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
            models = [model for annotation in annotations for model in _models_in(annotation)]
            by_name = any(_is_mapping(annotation) for annotation in annotations)
    return ".".join(spelled), models


def _word(model: type[BaseModel]) -> str | None:
    """The registered word of a section that is one of several kinds."""
    kind = model.model_fields.get("type")
    return get_args(kind.annotation)[0] if kind is not None else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, UnionType, tuple, list, dict):
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []


def _is_mapping(annotation: Any) -> bool:
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(_is_mapping(part) for part in get_args(annotation))
    return get_origin(annotation) is dict


def _show(value: Any) -> str:
    kind = {str: "text", int: "a number", float: "a number", bool: "true or false", dict: "a mapping", list: "a list"}
    return "nothing" if value is None else f"{value!r} ({kind.get(type(value), type(value).__name__)})"
