"""A run folder of another version is built anew, and nothing of it is used."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from training.errors import BuildError, RecipeError
from training.models.checkpoint import load_network, other_version
from training.pipeline.pipeline import build
from training.recipes import Recipe

MakeRecipe = Callable[..., Recipe]


def as_of_an_older_version(run: Path) -> None:
    """Takes the format out of every record, and puts a network of a module that moved."""
    for record in [*run.glob("*/done.json"), *run.glob("*/started.json")]:
        document = json.loads(record.read_text())
        del document["format"]
        record.write_text(json.dumps(document))
    for file in run.glob("*/network.safetensors"):
        # Protocol 0: a global that cannot be imported, on its own.
        file.write_bytes(b"ctraining.models.resnet_cifar\nCifarResNet\n.")


@pytest.fixture
def older(runs: Path) -> Path:
    as_of_an_older_version(runs / "tiny-digits")
    return runs


def test_older_run_is_built_anew_with_one_line(
    older: Path, digits_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = digits_recipe({"train.epochs": 1})
    built = build(recipe, older, tmp_path / "repository", until="train")
    assert built.ran == ("data", "train")
    said = [line for line in caplog.messages if "another version" in line]
    assert said == [
        f"{older / 'tiny-digits'} was built by another version of convserve: it is built anew"
    ]
    # Stages that this build does not reach are gone too: nothing may take them for new ones.
    assert {path.parent.name for path in older.glob("tiny-digits/*/done.json")} == {"data", "train"}
    caplog.clear()
    assert build(recipe, older, tmp_path / "repository", until="train").ran == ()
    assert "another version" not in caplog.text


def test_interrupted_older_stage_is_recognised(runs: Path) -> None:
    stage = runs / "tiny-digits" / "train"
    assert not other_version(stage)
    (stage / "done.json").unlink()
    assert not other_version(stage)
    (stage / "started.json").write_text('{"key": "k"}')
    assert other_version(stage)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "resnet20_cifar", "pretrained": "RUN"}}, "model.pretrained: RUN was"),
        ({"distill": {"teacher": {"run": "RUN"}}}, "distill.teacher.run: RUN was"),
    ],
)
def test_older_run_is_neither_first_weights_nor_teacher(
    older: Path, digits_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    run = str(older / "tiny-digits")
    changes = json.loads(json.dumps(changes).replace("RUN", run))
    recipe = digits_recipe({**changes, "train.epochs": 1, "name": "student"})
    expected = f"{said.replace('RUN', run)} built by another version of convserve; build it again"
    with pytest.raises(RecipeError) as error:
        build(recipe, tmp_path / "runs", tmp_path / "repository", until="distill")
    assert str(error.value) == expected


def test_network_of_a_module_that_moved_is_named(older: Path) -> None:
    file = older / "tiny-digits" / "train" / "network.safetensors"
    with pytest.raises(BuildError, match=rf"^{file}: saved by another version of convserve \("):
        load_network(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "resnet20_cifar", "pretrained": "RUN"}}, "model.pretrained"),
        (
            {"model": {"name": "resnet20_cifar", "pretrained": "RUN/train/checkpoints/best.ckpt"}},
            "model.pretrained",
        ),
        ({"distill": {"teacher": {"run": "RUN"}}}, "distill.teacher.run"),
    ],
)
def test_build_takes_no_weights_out_of_the_run_that_it_overwrites(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    run = runs / "tiny-digits"
    recipe = digits_recipe(json.loads(json.dumps(changes).replace("RUN", str(run))))
    with pytest.raises(RecipeError, match=f"^{said}: {run}.* belongs to the run that this build"):
        build(recipe, runs, tmp_path / "repository")
    assert (run / "train" / "network.safetensors").exists()


def test_teacher_by_name_is_checked_before_anything_is_trained(
    older: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    network = {"name": "resnet20_cifar", "pretrained": str(older / "tiny-digits")}
    recipe = digits_recipe({"distill": {"teacher": {"network": network}}})
    with pytest.raises(RecipeError, match=r"^distill\.teacher\.network: .* built by another vers"):
        build(recipe, tmp_path / "new", tmp_path / "repository")
    assert not (tmp_path / "new").exists()


def test_file_of_a_whole_network_is_no_first_weights(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    file = runs / "tiny-digits" / "train" / "network.safetensors"
    recipe = digits_recipe({"model": {"name": "resnet20_cifar", "pretrained": str(file)}})
    with pytest.raises(RecipeError, match=f"give its run's folder, {runs / 'tiny-digits'}$"):
        build(recipe, tmp_path / "runs", tmp_path / "repository")


@pytest.mark.parametrize("kept", [0, 4, 5000])
def test_damaged_network_is_named(runs: Path, kept: int) -> None:
    file = runs / "tiny-digits" / "train" / "network.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BuildError, match=rf"^{file}: cannot be read \("):
        load_network(file)
