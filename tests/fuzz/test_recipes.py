"""Whatever stands in a recipe, or in an override of it, is a recipe or named as wrong."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.changed import changed, check_text
from tests.support.mutation import changed_bytes, changed_document
from training.errors import RecipeError
from training.recipes.loading import load_recipe
from training.recipes.recipe import Recipe

_FOLDER = Path(__file__).parents[2] / "training/recipes"
RECIPES = [yaml.safe_load(path.read_text()) for path in sorted(_FOLDER.glob("*.yaml"))]


def changed_recipe(rng: random.Random, document: Any) -> bytes:
    """Changes of its structure, or of its text."""
    structure = rng.random() < 0.6
    told = yaml.safe_dump(changed_document(rng, document) if structure else document).encode()
    return told if structure else changed_bytes(rng, told)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("recipe") / "recipe.yaml"


def check(path: Path, *overrides: str) -> None:
    try:
        found: Recipe = load_recipe(path, overrides)
    except RecipeError as error:
        check_text(error)
        return
    assert found.name


@settings(settings.get_profile("fuzz"))
@given(text=changed(RECIPES, changed_recipe))
@example(text=b"[" * 1500)
@example(text=b"a: " * 1000)
@example(text=b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]")
@example(text=b"&a [*a]")
@example(text=b"a: &a\n  b: *a")
@example(text=b"!!python/object/apply:os.system [false]")
@example(text=b"task: classification\nseed: " + b"9" * 5000)
@example(text=b"date: 2026-99-99")
@example(text=b"? [a]\n: b")
@example(text=b"\xff\xfe")
def test_a_file_is_a_recipe_or_named_as_wrong(recipe: Path, text: bytes) -> None:
    recipe.write_bytes(text)
    check(recipe)


@settings(settings.get_profile("fuzz"))
@given(
    document=st.sampled_from(RECIPES),
    key=st.sampled_from(
        ["train.epochs", "seed", "model", "data.path", "task", "", "a.b", "..", "a"]
    ),
    value=st.one_of(
        st.text(max_size=50),
        st.sampled_from(["[" * 1500, "9" * 5000, "&a [*a]", "2026-99-99", "1e999", ".nan", "!!x"]),
    ),
)
def test_an_override_gives_a_recipe_or_is_named_as_wrong(
    recipe: Path, document: dict[str, Any], key: str, value: str
) -> None:
    recipe.write_text(yaml.safe_dump(document))
    check(recipe, f"{key}={value}")
