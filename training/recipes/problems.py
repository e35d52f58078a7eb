"""Messages on wrong recipes: the path, the value and the nearest valid name."""

from typing import Any

from pydantic import ValidationError

from serving.base.problems import problems_by_path
from training.recipes.recipe import Recipe

# Sections that take the keys they lack from `train`.
INHERITING = ("distill.train", "prune.train", "quantize.qat.train")


def problems(document: dict[str, Any], error: ValidationError, root: Any = Recipe) -> list[str]:
    """One text for each wrong place; a mistake in train is not repeated for the sections that
    inherit it. `root` is the type that the document was checked against."""
    by_path = problems_by_path(document, error, root)
    inherited = {
        section.removesuffix("train") + text
        for path, text in by_path.items()
        if path.startswith("train")
        for section in INHERITING
    }
    return [text for text in by_path.values() if text not in inherited]
