"""Builds: what is run, what is kept, and what is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import training.pipeline.stages.prune
from training.errors import BrokenFiles, RecipeError, VerificationError
from training.evaluation.report.report_file import REPORT_FILE, read_report, write_json
from training.evaluation.report.tables import variant_rows
from training.models.networks import check_network
from training.pipeline.pipeline import STAGE_NAMES, Built, build
from training.recipes import Recipe, load_recipe

MakeRecipe = Callable[..., Recipe]

# The tiny recipe has no teacher.
RUN = tuple(name for name in STAGE_NAMES if name != "distill")


def test_whole_build_publishes_the_first_version(digits_built: Built) -> None:
    assert digits_built.ran == RUN
    assert digits_built.version == 1
    assert digits_built.verification is not None
    assert [row["variant"] for row in variant_rows(digits_built.verification)] == [
        "trained", "fp32", "fp32", "int8-s8", "int8-s8", "int8-u8", "int8-u8",
    ]  # fmt: skip


def test_run_folder_tells_how_it_was_made(digits_built: Built) -> None:
    folder = digits_built.folder
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["model"]["name"] == "resnet20_cifar"
    assert "onnxruntime" in json.loads((folder / "environment.json").read_text())["engines"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert tuple(metrics) == RUN[1:]
    assert json.loads((folder / "data.json").read_text())["images"]["test"] == 364
    assert len(metrics["train"]["history"]) == 3
    assert metrics["prune"]["macs"] < metrics["train"]["macs"]


def test_unchanged_build_keeps_everything_and_publishes_nothing(
    digits_built: Built, digits_recipe: MakeRecipe, workplace: Path
) -> None:
    report = read_report(digits_built.folder)
    report = report.model_copy(update={"created": "2020-02-02T02:02:02+00:00"})
    write_json(digits_built.folder / REPORT_FILE, report)
    again = build(digits_recipe(), workplace / "runs", workplace / "repository")
    assert read_report(again.folder).created == "2020-02-02T02:02:02+00:00"
    assert again.ran == ()
    assert again.kept == RUN
    assert again.version is None
    published = workplace / "repository" / "tiny-digits"
    assert [path.name for path in published.iterdir() if path.is_dir()] == ["1"]


def test_change_runs_its_stage_and_what_follows_only(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = digits_recipe({"verify.batch_sizes": [2]})
    changed = build(recipe, runs, tmp_path / "repository")
    assert changed.kept == ("data", "train", "prune", "quantize", "export")
    assert changed.ran == ("verify", "publish")
    assert (tmp_path / "repository" / "tiny-digits" / "1" / "manifest.json").exists()


def test_failing_gate_publishes_nothing_and_leaves_the_report(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = digits_recipe({"verify.min_accuracy": 1.0, "verify.batch_sizes": [1]})
    report = runs / "tiny-digits" / "report.html"
    report.unlink()
    with pytest.raises(VerificationError, match=r"fp32 in onnxruntime: drop .* is under 1\.0"):
        build(recipe, runs, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
    assert "the gate refused it" in report.read_text()


def test_network_that_has_learnt_nothing_is_published_only_where_the_recipe_says_so(
    digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    changes = {
        "name": "idle",
        "train.epochs": 1,
        "train.optimizer": {"name": "sgd", "lr": 1e-9},
        "prune": None,
        "quantize": None,
        "export.variants": ["fp32"],
        "verify.batch_sizes": [1],
    }
    repository = tmp_path / "repository"
    with pytest.raises(VerificationError, match="is not above chance: one answer to all images"):
        build(digits_recipe(changes), tmp_path / "runs", repository)
    assert not repository.exists()
    refused = read_report(tmp_path / "runs" / "idle")
    assert (refused.state.kind, refused.state.stage) == ("refused", "verify")
    assert "is not above chance" in refused.state.reason
    assert refused.verified is not None
    assert refused.published is None
    allowed = build(
        digits_recipe({**changes, "verify.min_accuracy": 0.0}), tmp_path / "runs", repository
    )
    assert allowed.version == 1
    assert allowed.ran == ("verify", "publish")


def test_build_until_a_stage_stops_after_it(digits_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = digits_recipe({"train.epochs": 1, "name": "short"})
    short = build(recipe, tmp_path / "runs", tmp_path / "repository", until="train")
    assert short.ran == ("data", "train")
    assert short.verification is None
    assert short.report.exists()
    assert str(read_report(short.folder).state) == "done up to train, not published"
    assert not (tmp_path / "repository").exists()


def test_interrupted_build_goes_on_where_it_stopped(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = digits_recipe({"prune.train.epochs": 1})

    shown = []

    def killed(*arguments: object, **named: object) -> None:
        # A build that is killed outright leaves the report that lies there now.
        shown.append(read_report(runs / "tiny-digits").state.kind)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.pipeline.stages.prune, "fine_tune", killed)
    with pytest.raises(KeyboardInterrupt):
        build(recipe, runs, tmp_path / "repository", until="prune")
    monkeypatch.undo()
    left = read_report(runs / "tiny-digits")
    shown.append(left.state.kind)
    assert shown == ["under way", "interrupted"]
    assert left.state.stage == "prune"
    assert left.verified is None  # that of the former build does not hold any more
    resumed = build(recipe, runs, tmp_path / "repository", until="prune")
    assert resumed.kept == ("data", "train")
    assert resumed.ran == ("prune",)


def test_deleted_version_is_published_again(
    shapes_built: Built, workplace: Path, tmp_path: Path
) -> None:
    version = workplace / "repository" / "tiny-shapes" / "1"
    version.rename(tmp_path / "away")
    recipe = load_recipe(shapes_built.folder / "recipe.yaml")
    again = build(recipe, workplace / "runs", workplace / "repository")
    assert again.ran == ("publish",)
    assert again.version == 1


def test_data_alone_can_be_looked_at_and_broken_files_are_all_named(
    digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(6):
            pixels = np.full((20, 20, 3), 10 * index + len(label), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{index}.png")
    source = {"source": "image_folder", "root": str(tmp_path / "photos")}
    recipe = digits_recipe({"data": source, "name": "photos"})
    folder = tmp_path / "runs" / "photos"
    seen = build(recipe, tmp_path / "runs", tmp_path / "repository", until="data")
    assert seen.ran == ("data",)
    assert json.loads((folder / "data.json").read_text())["images"]["train"] == 6
    assert '<h2 id="data">' in seen.report.read_text()
    for index in range(6):
        (tmp_path / "photos" / "cat" / f"{index}.png").write_bytes(b"")
    with pytest.raises(BrokenFiles, match="6 of 12 files cannot be used"):
        build(recipe, tmp_path / "runs", tmp_path / "repository", until="data")
    broken = json.loads((folder / "data.json").read_text())["broken"]
    assert sorted(broken) == [f"cat/{index}.png" for index in range(6)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.name": "resnet20_cifra"}, "did you mean resnet20_cifar"),
        ({"model.options": {"width": 2}}, "resnet20_cifar has no option width"),
        ({"model.name": "unet_slim"}, "the recipe's task is classification"),
    ],
)
def test_network_that_cannot_be_is_refused_before_anything_runs(
    digits_recipe: MakeRecipe, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        check_network(digits_recipe(changes))
