"""A recipe: everything that decides what a build makes, in one YAML file.

Unknown keys are refused with their path and the nearest valid name, wrong values with the path, the
value and what was expected. The order of the fields is the order of the stages.
"""

from training.recipes.loading import load_recipe, parse_recipe, read_document, replace
from training.recipes.recipe import (
    ClassificationRecipe,
    EmbeddingRecipe,
    Recipe,
    SegmentationRecipe,
)

__all__ = [
    "ClassificationRecipe",
    "EmbeddingRecipe",
    "Recipe",
    "SegmentationRecipe",
    "load_recipe",
    "parse_recipe",
    "read_document",
    "replace",
]
