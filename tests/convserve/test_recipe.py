"""`convserve.Recipe`: from a file, plain dicts or keywords, checked in each."""

from pathlib import Path
from typing import Any

import pytest

import convserve

DIGITS = Path(__file__).parents[2] / "training" / "recipes" / "digits-resnet20.yaml"


def keys() -> dict[str, Any]:
    return {
        "name": "small",
        "task": "classification",
        "data": {"source": "digits"},
        "transform": {"resize": [32, 32]},
        "model": {"name": "resnet20"},
        "train": {"epochs": 2, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.1}},
    }


def test_file_dict_and_keywords_give_the_same_recipe(tmp_path: Path) -> None:
    of_keywords = convserve.Recipe(**keys())
    assert of_keywords == convserve.Recipe(keys())
    assert of_keywords == convserve.Recipe(of_keywords.save(tmp_path / "small.yaml"))
    assert of_keywords.settings.transform.resize == (32, 32)
    assert (of_keywords.name, of_keywords.task) == ("small", "classification")
    assert repr(convserve.Recipe(DIGITS)).startswith("<convserve.Recipe digits: classification of ")


def test_replace_gives_another_recipe_and_leaves_the_first_one() -> None:
    first = convserve.Recipe(keys())
    second = first.replace({"train.epochs": 5, "seed": 3})
    assert (second.document()["train"]["epochs"], second.document()["seed"]) == (5, 3)
    assert first.document()["train"]["epochs"] == 2


def test_replace_takes_paths_with_their_values() -> None:
    with pytest.raises(convserve.RecipeError, match=r"expected paths with their values, got \[1\]"):
        convserve.Recipe(keys()).replace([1])  # type: ignore[arg-type]


def test_recipe_does_not_change_with_the_dict_that_it_was_made_of() -> None:
    given = keys()
    recipe = convserve.Recipe(given)
    given["train"]["epochs"] = 9
    recipe.document()["train"]["epochs"] = 9
    assert recipe.replace({"seed": 1}).document()["train"]["epochs"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train.epoch": 1}, "train.epoch: unknown key; did you mean 'epochs'"),
        ({"train.epochs": "many"}, "train.epochs"),
        ({"name": "../up"}, "name"),
        ({"seed.a": 1}, "seed"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(convserve.RecipeError, match=said):
        convserve.Recipe({**keys(), "seed": 1}).replace(change)


@pytest.mark.parametrize("source", [(), ("nowhere.yaml",), ({},)])
def test_nothing_is_no_recipe(source: tuple[Any, ...]) -> None:
    with pytest.raises(convserve.RecipeError):
        convserve.Recipe(*source)


def test_either_a_source_or_keywords() -> None:
    with pytest.raises(convserve.RecipeError, match="a file, a dict or keywords"):
        convserve.Recipe(keys(), seed=1)
