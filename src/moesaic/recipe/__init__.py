"""The whole road in one file: what a recipe may say, and how it is gone."""

from moesaic.recipe.check import Plan, check
from moesaic.recipe.compare import Comparison, compare
from moesaic.recipe.load import LoadedRecipe, load_recipe
from moesaic.recipe.run import Run, run
from moesaic.recipe.schema import Recipe

__all__ = ["Comparison", "LoadedRecipe", "Plan", "Recipe", "Run", "check", "compare", "load_recipe", "run"]
