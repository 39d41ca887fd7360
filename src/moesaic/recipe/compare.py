"""Measure any list of combinations, with one random seed or several: the command ``moesaic arena``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moesaic.arena import ArenaTable, SeedTable, combine_seeds
from moesaic.errors import RecipeError
from moesaic.recipe.load import load_recipe
from moesaic.recipe.run import run
from moesaic.recipe.task_schema import TaskRecipe


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        folder: The run's folder, where ``arena.md``, ``arena.csv``, ``arena.json`` and ``arena.svg`` are.
        tables: One table a random seed.
    """

    folder: Path
    tables: tuple[ArenaTable, ...]

    @property
    def table(self) -> ArenaTable | SeedTable:
        """The one table, or the means of several with their spread."""
        return self.tables[0] if len(self.tables) == 1 else combine_seeds(self.tables)


def compare(
    recipe: str | Path,
    *,
    settings: Sequence[str] = (),
    folder: str | Path | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> Comparison:
    """Measure the combinations that a recipe asks for, on the same members, data and budget.

    Trains what these combinations are made of and nothing else. A row is measured again only when something that it
    depends on has changed. With ``arena.num_seeds`` above 1 the whole road is gone once for each random seed.

    Args:
        recipe: The YAML file.
        settings: One-off changes, each ``dotted.key=value``.
        folder: The run's folder; ``runs/NAME-OF-RECIPE`` if not given. Further seeds lie in its ``seeds``.
        jobs: Independent models that are trained at a time.
        quiet: Print nothing but warnings.

    Raises:
        RecipeError: If the recipe cannot be read, names a task, or asks for a combination that it cannot have.
        BudgetError: If a combination needs more than ``arena.budget``; nothing is trained then.
        MoesaicError: What :func:`moesaic.run` raises.
    """
    loaded = load_recipe(recipe, settings)
    if isinstance(loaded.recipe, TaskRecipe):
        raise RecipeError(
            f"{loaded.path.name} names a task, whose systems are all measured by the run itself: moesaic run {recipe}."
        )
    top = Path(folder) if folder is not None else Path("runs") / loaded.name
    first = loaded.recipe.random_seed
    tables = []
    for seed in range(first, first + loaded.recipe.arena.num_seeds):
        place = top if seed == first else top / "seeds" / str(seed)
        changed = settings if seed == first else [*settings, f"random_seed={seed}"]
        tables.append(run(recipe, settings=changed, folder=place, until="arena", jobs=jobs, quiet=quiet).table)
    from moesaic.arena.figure import save_front  # matplotlib takes a second to import

    comparison = Comparison(top, tuple(tables))
    table = comparison.table
    for ending, content in (("md", table.to_markdown()), ("csv", table.to_csv()), ("json", table.to_json())):
        (top / f"arena.{ending}").write_text(content, encoding="utf-8")
    save_front(table, top / "arena.svg")
    return comparison
