"""A run folder of another version is built anew, and nothing of it is used."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.hostile_pickle import plant
from training.errors import BuildError, RecipeError
from training.models import build_model
from training.models.checkpoint import RUN_FORMAT, load_network, other_version
from training.models.weights import load_weights
from training.pipeline.pipeline import build
from training.pipeline.run_folder import one_build
from training.pipeline.stages.distill import teacher_file
from training.recipes import Recipe
from training.recipes.compress import Teacher

MakeRecipe = Callable[..., Recipe]


def as_of_an_older_version(run: Path) -> None:
    """Takes the format out of every record, and leaves networks as they were saved then."""
    for record in [*run.glob("*/done.json"), *run.glob("*/started.json")]:
        document = json.loads(record.read_text())
        del document["format"]
        record.write_text(json.dumps(document))
    for file in run.glob("*/network.safetensors"):
        file.with_name("network.pt").write_bytes(b"a pickle")
        file.unlink()


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


@pytest.mark.parametrize("record", [False, True])
def test_nothing_of_another_run_is_ever_unpickled(tmp_path: Path, record: bool) -> None:
    mark, stage = tmp_path / "PWNED", tmp_path / "theirs" / "train"
    names = ("network.pt", "network.safetensors", "checkpoints/best.ckpt")
    plant(mark, *(stage / name for name in names))
    if record:
        (stage / "done.json").write_text(json.dumps({"format": RUN_FORMAT, "key": "k"}))
    with pytest.raises(BuildError, match="cannot be read"):
        load_weights(build_model("lenet5", 10), str(stage.parent), "lenet5")
    with pytest.raises(BuildError, match="cannot be read"):
        load_network(teacher_file(Teacher(run=stage.parent)))
    for file in (stage / "network.pt", stage / "checkpoints" / "best.ckpt"):
        with pytest.raises(BuildError, match="cannot be read as tensors"):
            load_weights(build_model("lenet5", 10), str(file), "lenet5")
    assert not mark.exists()


@pytest.mark.parametrize(
    "blueprint",
    ["", "[]", "{}", "[1, 2, 3]", '["no", 2, {}]', '["resnet20_cifar", -1, {}]', "[" * 100_000,
     '["resnet20_cifar", 10, {"x": 1}]', '["resnet20_cifar", 10, {"attention": [1]}]',
     '["lenet5", 10, {}]', '["unet_slim", 10, {"width": 1000000}]'],
)  # fmt: skip
def test_a_file_that_tells_nonsense_of_its_network_is_named(runs: Path, blueprint: str) -> None:
    file = runs / "tiny-digits" / "train" / "network.safetensors"
    save_file(load_file(file), file, {"convserve": blueprint})
    with pytest.raises(BuildError, match=rf"^{file}: holds no network of this version"):
        load_network(file)


@pytest.mark.parametrize("kept", [0, 4, 5000])
def test_damaged_network_is_named(runs: Path, kept: int) -> None:
    file = runs / "tiny-digits" / "train" / "network.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BuildError, match=rf"^{file}: cannot be read \("):
        load_network(file)


def test_second_build_in_one_run_folder_is_refused_and_changes_nothing(
    digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe, run = digits_recipe(), tmp_path / "runs" / "tiny-digits"
    with (
        one_build(run),
        pytest.raises(
            BuildError, match=r"runs/tiny-digits: another build is at work in it; .*--out"
        ),
    ):
        build(recipe, run.parent, tmp_path / "repository", until="data")
    assert list(run.iterdir()) == []
    assert build(recipe, run.parent, tmp_path / "repository", until="data").ran == ("data",)


def test_workers_of_a_killed_build_do_not_keep_its_folder(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal\n"
        "from training.pipeline.run_folder import one_build\n"
        "with one_build(pathlib.Path('run')):\n"
        "    worker = os.fork()\n"
        "    if worker == 0:\n"
        "        signal.pause()\n"
        "    print(worker, flush=True)\n"
        "    signal.pause()\n"
    )
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    ) as killed:
        assert killed.stdout is not None
        worker = int(killed.stdout.readline())
        try:
            with pytest.raises(BuildError, match="another build"), one_build(tmp_path / "run"):
                pass
            killed.kill()
            killed.wait()
            with one_build(tmp_path / "run"):
                assert Path(f"/proc/{worker}").exists()
        finally:
            os.kill(worker, signal.SIGKILL)
