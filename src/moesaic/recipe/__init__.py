"""The whole road in one file: what a recipe may say, and how it is gone."""

from moesaic.recipe.load import LoadedRecipe, load_recipe
from moesaic.recipe.run import Run, run
from moesaic.recipe.schema import Recipe

__all__ = ["LoadedRecipe", "Recipe", "Run", "load_recipe", "run"]
