"""A recipe: all settings of a build, in one YAML file.

Unknown keys are refused with their path and the nearest valid name, wrong values with their path,
the value and the values that are expected. The order of the fields is the order of the stages.
"""

from training.recipes.loading import document_of, load_recipe, parse_recipe, read_document, replace
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
    "document_of",
    "load_recipe",
    "parse_recipe",
    "read_document",
    "replace",
]
