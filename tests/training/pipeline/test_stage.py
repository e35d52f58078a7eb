"""A stage's key holds everything that its work reads."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import training.pipeline.environment
import training.pipeline.stages.export
from training.fitting.stage_folder import Results
from training.pipeline import environment
from training.pipeline.pipeline import STAGE_NAMES, STAGES, keys_until, training_settings
from training.pipeline.stage import Stage, steps
from training.pipeline.stages.data import new_build
from training.recipes import Recipe
from training.recipes.sections import only

MakeRecipe = Callable[..., Recipe]

EVERYTHING = {
    "distill": {
        "teacher": {"network": {"name": "resnet20_cifar", "pretrained": "teacher.pth"}},
    },
    "prune.latency": {"speedup": 1.5},
    "prune.ratio": None,
    "quantize.qat": {"train": {"epochs": 1}},
    "search": {},
    "fold": {"index": 0, "count": 5},
    "export.tensorrt": {"variants": ["fp32"]},
    "verify.batch_sizes": [1],
}


def leaves(section: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value of nested dicts, by its dotted path."""
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def changed(recipe: Recipe, path: str) -> Recipe:
    """A copy in which one value is another; nothing is checked."""
    other = recipe.model_copy()
    here: Any = other
    *sections, last = path.split(".")
    for name in sections:
        if isinstance(here, dict):
            below = here[name] = copy.copy(here[name])
        else:
            below = here.__dict__[name] = copy.copy(getattr(here, name))
        here = below
    values = here if isinstance(here, dict) else here.__dict__
    values[last] = f"not {values[last]}"
    return other


# The facts would look for files and engines by values that are none.
NO_FACTS = tuple(replace(stage, facts=lambda build: None) for stage in STAGES)


def keys(recipe: Recipe, stages: tuple[Stage, ...] = NO_FACTS) -> dict[str, str]:
    return {step.stage.name: step.key for step in steps(stages, new(recipe))}


def new(recipe: Recipe) -> Any:
    return new_build(recipe, Path(), Path())


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("changes", [EVERYTHING, {}, {"quantize": None, "prune": None,
                                                      "export.variants": ["fp32"]}])  # fmt: skip
def test_every_value_that_a_stage_may_read_changes_its_key(
    digits_recipe: MakeRecipe, changes: dict[str, Any]
) -> None:
    recipe = digits_recipe(changes)
    before = keys(recipe)
    tried = 0
    for step in steps(NO_FACTS, new(recipe)):
        for path, value in leaves(step.build.recipe.model_dump(mode="json")):
            if path in STAGE_NAMES and value is None:
                # Another value is another stage, and with it another key.
                continue
            after = keys(changed(recipe, path))
            assert after[step.stage.name] != before[step.stage.name], (step.stage.name, path)
            tried += 1
    assert tried > 200


def test_work_cannot_read_a_section_that_no_key_holds(digits_recipe: MakeRecipe) -> None:
    seen: list[Recipe] = []
    reader = Stage("data", ("task", "publish.instances"), lambda build: Results(seen=build))
    [step] = steps((reader,), new(digits_recipe()))
    recipe = step.build.recipe
    assert (recipe.task, recipe.publish.instances) == ("classification", 1)
    for read in (lambda: recipe.seed, lambda: recipe.publish.max_batch_size):
        with pytest.raises(AttributeError):
            read()
    assert not seen


def test_data_are_loaded_by_the_sections_that_the_first_key_holds(
    digits_recipe: MakeRecipe,
) -> None:
    asked: list[Recipe] = []

    def source(recipe: Recipe) -> Any:
        asked.append(recipe)
        return recipe

    build = new_build(digits_recipe(), Path(), Path(), source)
    assert build.data is build.data
    assert [set(recipe.model_dump()) for recipe in asked] == [{"task", "data", "fold", "transform"}]


def test_search_settings_are_read_by_no_stage(digits_recipe: MakeRecipe) -> None:
    assert keys(digits_recipe({"search": {}})) == keys(digits_recipe({"search": {"trials": 3}}))


PLANS = {"export.tensorrt": {"variants": ["fp32"]}}


@pytest.mark.parametrize(("changes", "first"), [(PLANS, "export"), ({}, "verify")])
def test_size_of_a_batch_is_read_where_plans_are_made_and_where_they_are_measured(
    digits_recipe: MakeRecipe, changes: dict[str, Any], first: str
) -> None:
    small, large = (
        keys(digits_recipe({**changes, "publish.max_batch_size": size})) for size in (32, 64)
    )
    assert next(name for name in small if small[name] != large[name]) == first


@pytest.mark.parametrize(
    ("changes", "fact", "first"),
    [
        (PLANS, "gpu_facts", "quantize"),
        ({**PLANS, "quantize": None, "export.variants": ["fp32"]}, "gpu_facts", "export"),
        ({"quantize": None, "export.variants": ["fp32"]}, "gpu_facts", "verify"),
        ({"quantize": None, "export.variants": ["fp32"]}, "engine_versions", "verify"),
        ({"quantize": None, "export.variants": ["fp32"]}, "machine", "verify"),
        ({"quantize": None, "export.variants": ["fp32"]}, "cpu_features", "verify"),
        ({"prune.ratio": None, "prune.latency": {"speedup": 1.5}}, "gpu_facts", "prune"),
        ({}, "engine_versions", "quantize"),
    ],
)
def test_what_is_measured_here_holds_for_this_machine_only(
    digits_recipe: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    fact: str,
    first: str,
) -> None:
    monkeypatch.setattr(training.pipeline.stages.export, "engine_version", lambda name: "11")
    recipe = digits_recipe(changes)
    before = keys(recipe, STAGES)
    for module in (environment, training.pipeline.stages.export):
        monkeypatch.setattr(module, fact, lambda: ["another"], raising=False)
    after = keys(recipe, STAGES)
    assert next(name for name in before if before[name] != after[name]) == first


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("train", {}),
        ("prune", {"train.precision": "fp32", "prune.train": {"epochs": 1, "precision": "auto"}}),
    ],
)
def test_precision_that_auto_means_here_is_in_the_key(
    digits_recipe: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    changes: dict[str, Any],
) -> None:
    recipe = digits_recipe(changes)
    found = []
    for features in ((), ("amx_bf16",)):
        monkeypatch.setattr(training.fitting.train, "cpu_features", lambda here=features: here)
        found.append(keys_until(recipe, "prune"))
    before, after = found
    assert next(name for name in before if before[name] != after[name]) == stage


def test_keys_end_with_the_stage_that_is_asked_for(digits_recipe: MakeRecipe) -> None:
    assert list(keys_until(digits_recipe(), "prune")) == ["data", "train", "prune"]
    assert list(keys_until(digits_recipe(), "distill")) == ["data", "train"]
    assert set(training_settings(digits_recipe(), "train")) == {
        "task", "data", "fold", "transform", "seed", "normalization", "augment", "model", "train",
    }  # fmt: skip
    assert STAGE_NAMES[-1] == "publish"


def test_paths_of_another_task_are_passed_over(digits_recipe: MakeRecipe) -> None:
    assert set(only(digits_recipe(), ("task", "binary")).model_dump()) == {"task"}
