"""A search: its bounds, what it chooses, and that it goes on where it stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import shapes_document
from tests.training.pipeline.searching.conftest import float_recipe
from training.errors import RecipeError, TargetNotReached
from training.evaluation.report.report_file import read_report
from training.evaluation.searched import Point, Searched, Tried
from training.pipeline.bound import Bound, parse_bound
from training.pipeline.searching.laboratory import Laboratory
from training.pipeline.searching.search import search, with_plans
from training.pipeline.searching.space import Space, transform_of
from training.recipes import Recipe, parse_recipe
from training.recipes.compress import Search
from training.recipes.data import Transform
from training.recipes.deliver import TensorRt

MakeRecipe = Callable[..., Recipe]


def tried(drop: float, milliseconds: float) -> Tried:
    point = Point(network=f"n{milliseconds:g}", size=(8, 8), ratio=0.0, variant="fp32")
    return Tried(point=point, drop=drop, milliseconds=milliseconds)


def measured(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The points that a search has measured, by its log."""
    return [
        message.removeprefix("search: ").rpartition(": ")[0]
        for message in caplog.messages
        if message.startswith("search: ") and " ms, drop " in message
    ]


ALL = [tried(0.0, 9.0), tried(0.01, 4.0), tried(0.02, 5.0), tried(0.08, 1.0)]


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("latency<=2.5", Bound("latency", 2.5)),
        (" drop <= 1 ", Bound("drop", 1.0)),
        ("drop<=.5", Bound("drop", 0.5)),
    ],
)
def test_bound_is_read(text: str, bound: Bound) -> None:
    assert parse_bound(text) == bound


@pytest.mark.parametrize("text", ["latency<2", "size<=3", "drop<=x", "", "latency<=-1"])
def test_other_bounds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected latency<=MILLISECONDS or drop<=POINTS"):
        parse_bound(text)


def test_bound_of_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="expected more than 0 milliseconds, got 'latency<=0'"):
        parse_bound("latency<=0")


@pytest.mark.parametrize(
    ("bound", "milliseconds"),
    [
        (Bound("latency", 4.5), 4.0),
        (Bound("latency", 20), 9.0),
        (Bound("drop", 2), 4.0),
        (Bound("drop", 50), 1.0),
    ],
)
def test_best_within_the_bound_is_chosen(bound: Bound, milliseconds: float) -> None:
    assert bound.choose(ALL).milliseconds == milliseconds


@pytest.mark.parametrize("most", [0.7, 1.4, 2.9, 7.0])
def test_a_drop_as_large_as_the_bound_keeps_it(most: float) -> None:
    assert Bound("drop", most).keeps_drop(round(10 * most) / 1000)
    assert not Bound("drop", most).keeps_drop((round(10 * most) + 1) / 1000)


def test_bound_that_nothing_keeps_names_the_nearest() -> None:
    with pytest.raises(
        TargetNotReached, match=r"latency <= 0.5 ms: none of 4 .* n1 at 8x8, .* 1\.0"
    ):
        Bound("latency", 0.5).choose(ALL)


def test_front_holds_what_nothing_beats_in_both() -> None:
    searched = Searched(tried=tuple(ALL), chosen=ALL[0].point, bound="", measured="")
    assert [one.milliseconds for one in searched.front()] == [1.0, 4.0, 9.0]


def test_a_winner_that_was_tried_last_is_not_made_again(
    digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Laboratory, "milliseconds", lambda self, path, point: 2 - point.ratio)
    recipe = float_recipe(digits_recipe, max_ratio=0.3, trials=2)
    folders = tmp_path / "runs", tmp_path / "repository"
    built = search(recipe, Bound("drop", 100), *folders)
    report = read_report(built.folder)
    assert report.searched is not None
    assert report.searched.chosen.ratio > 0
    assert built.ran == ("verify", "publish")


@pytest.mark.usefixtures("any_latency_will_do")
def test_search_builds_the_winner_and_goes_on_where_it_stopped(
    digits_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"engine": "onnxruntime", "batch_size": 4, "seconds": 0.01, "trials": 3}
    changes = {
        "train.epochs": 1,
        "prune.train": {"epochs": 1},
        "export.variants": ["fp32", "int8-u8"],
        "verify.max_drop": 1.0,
        "verify.min_accuracy": 0.0,
    }
    bound = Bound("drop", 100)
    recipe = digits_recipe({**changes, "search": settings})
    built = search(recipe, bound, tmp_path / "runs", tmp_path / "repository")
    assert built.version == 1
    assert "train" in built.kept
    report = read_report(built.folder)
    assert report.searched is not None
    assert report.searched.reference is not None
    assert "tried by the search" in built.report.read_text()
    caplog.set_level("INFO", logger="training")
    recipe = digits_recipe({**changes, "search": {**settings, "trials": 4}})
    search(recipe, bound, tmp_path / "runs", tmp_path / "repository")
    assert len(measured(caplog)) == 1
    caplog.clear()
    # Another bound knows these trials, and has no time for its own.
    folders = tmp_path / "runs", tmp_path / "repository"
    search(recipe, Bound("latency", 1e6), *folders, hours=0)
    assert measured(caplog) == []
    assert "search: latency <= 1e+06 ms: resnet20_cifar at 16x16" in caplog.text


@pytest.mark.parametrize(
    ("variant", "plans"), [("fp32", None), ("fp16", ("fp16",)), ("int8-s8", ("int8-s8",))]
)
def test_trials_make_no_plans_and_the_winner_those_of_its_variants(
    digits_recipe: MakeRecipe, variant: str, plans: tuple[str, ...] | None
) -> None:
    wanted = TensorRt(variants=("fp16", "int8-s8"))
    export = {"variants": ["fp32", "fp16", "int8-s8"], "tensorrt": wanted.model_dump(mode="json")}
    recipe = digits_recipe({"export": export})
    size = recipe.transform.size
    point = Point(network=recipe.model.architecture, size=size, ratio=0.0, variant=variant)
    tried = Space(recipe, Search()).recipe_of(point)
    assert tried.export.tensorrt is None
    kept = with_plans(tried, wanted).export.tensorrt
    assert (kept.variants if kept is not None else None) == plans


@pytest.mark.usefixtures("any_latency_will_do")
def test_weights_of_the_run_that_a_search_writes_are_refused(
    digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    weights = tmp_path / "runs" / "tiny-digits" / "weights.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    other = {"name": "resnet32_cifar", "pretrained": str(weights)}
    recipe = digits_recipe({"search": {"engine": "onnxruntime", "networks": [other]}})
    with pytest.raises(RecipeError, match=r"search\.networks\.pretrained: .* belongs to the run"):
        search(recipe, Bound("drop", 100), tmp_path / "runs", tmp_path / "repository")


def test_search_in_an_engine_that_runs_plans_only_is_refused(digits_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"engine: expected one of onnxruntime, .*'tensorrt'"):
        digits_recipe({"search": {"engine": "tensorrt"}})


def test_search_over_pruned_networks_needs_to_know_how_to_prune(digits_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"search\.max_ratio is above 0, so prune must be given"):
        digits_recipe({"prune": None, "search": {}})


@pytest.mark.usefixtures("any_latency_will_do")
def test_sizes_of_images_are_tried_while_there_is_time(
    digits_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = digits_recipe(
        {
            "train.epochs": 1,
            "prune": None,
            "quantize": None,
            "export.variants": ["fp32"],
            "verify.max_drop": 1.0,
            "verify.min_accuracy": 0.0,
            "search": {"sizes": [12], "max_ratio": 0, "seconds": 0.01, "trials": 2},
        }
    )
    caplog.set_level("INFO", logger="training")
    folders = tmp_path / "runs", tmp_path / "repository"
    assert search(recipe, Bound("drop", 100), *folders, hours=0).version == 1
    assert "search: 0 hours have passed; 1 trials were not made" in caplog.text
    assert "at 12x12" not in caplog.text
    search(recipe, Bound("drop", 100), *folders)
    assert "at 12x12, 0 % pruned, fp32: " in caplog.text
    tried = tmp_path / "runs" / recipe.name / "search"
    assert {folder.name.split("-")[-1] for folder in tried.glob("*-*x*")} == {"16x16", "12x12"}


@pytest.mark.parametrize(
    ("transform", "smaller"),
    [
        ({"resize": [32, 48]}, {"resize": (16, 24)}),
        ({"resize": 256, "crop": [224, 224]}, {"resize": 128, "crop": (112, 112)}),
        ({"resize": [64, 64], "crop": [48, 48]}, {"resize": (32, 32), "crop": (24, 24)}),
    ],
)
def test_image_of_another_size_shows_as_much_of_the_picture(
    transform: dict[str, Any], smaller: dict[str, Any]
) -> None:
    whole = Transform.model_validate(transform)
    height, width = whole.size
    half = transform_of(whole, (height // 2, width // 2))
    assert half == Transform.model_validate(smaller)


def test_masks_of_several_sizes_are_not_compared(shapes_root: Path) -> None:
    document = {**shapes_document(shapes_root), "search": {"max_ratio": 0, "sizes": [16]}}
    with pytest.raises(RecipeError, match=r"search\.sizes: masks of different sizes"):
        parse_recipe(document)
