"""`convserve build` as a person runs it: exit status, one clear line, JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from training.cli import adopt, build
from training.models.export.variants import FLOATS, SCHEMES
from training.pipeline.pipeline import STAGE_NAMES, Built

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "training" / "recipes" / "digits-resnet20.yaml"
COMMAND = [sys.executable, "-m", "convserve"]


def run(*arguments: str) -> Result:
    """The command in this process, which has torch already. An exception that it lets through, of
    which a person would see the traceback, fails the test."""
    return CliRunner().invoke(
        build.app, ["build", *arguments], prog_name="convserve", catch_exceptions=False
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["."], ".: a folder; expected a file (`convserve init .` writes a recipe of it)"),
        ([str(DIGITS), "--set", "train.epoch=1"], "did you mean 'epochs'?"),
        ([str(DIGITS), "--set", "seed.a=1"], "seed is 1, it has no keys"),
    ],
)
def test_wrong_recipe_is_one_line_and_status_1(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.count("convserve build: ") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a recipe"),
        ([str(DIGITS), "--until", "tea"], "train, distill, prune"),
        ([str(DIGITS), "--until", "prune", "--search", "drop<=1"], "goes through all stages"),
        ([str(DIGITS), "--search", "size<=3"], "expected latency<=MILLISECONDS or drop<=POINTS"),
        ([str(DIGITS), "--fast"], "--fast"),
        ([str(DIGITS), "--study", "study.yaml", "--until", "train"], "a study trains"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize("flags", [["--study"], ["--search", "drop<=1"], ["--until", "data"]])
def test_torchrun_is_refused_where_nothing_is_shared(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    if flags == ["--study"]:
        study = tmp_path / "study.yaml"
        study.write_text("cross_validation: {folds: 2}")
        flags = ["--study", str(study)]
    done = run(str(DIGITS), *flags, "--out", str(tmp_path / "runs"))
    assert done.exit_code == 1
    assert "torchrun shares one training; start a study, a search or" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_told_without_traceback(tmp_path: Path) -> None:
    flags = ["--out", str(tmp_path / "runs"), "--model-repository", str(tmp_path / "repository")]
    done = run(str(DIGITS), "--set", "data={source: image_folder, root: /no/data}", *flags)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith("/no/data: no such folder")


def test_stages_of_the_help_are_those_of_the_pipeline() -> None:
    assert build.STAGES == STAGE_NAMES


def test_variants_of_adopt_are_those_that_are_made() -> None:
    assert sorted(adopt.VARIANTS) == sorted([*FLOATS, *SCHEMES])


def test_json_is_all_there_is_on_stdout(digits_built: Built, workplace: Path) -> None:
    recipe = digits_built.folder / "recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["name"] == "tiny-digits"
    # Another repository would be another build; so would fewer stages in the same run folder.
    flags = ["--out", str(workplace / "runs"), "--json"]
    flags += ["--model-repository", str(workplace / "repository")]
    done = subprocess.run(
        [*COMMAND, "build", str(recipe), *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["kept"][:2] == ["data", "train"]
    assert document["ran"] == []
    assert document["published_version"] is None
    assert document["measure"] == "top1"
    trained, *variants = document["variants"]
    assert (trained["variant"], trained["passed"]) == ("trained", None)
    assert trained["macs"] > variants[0]["macs"]
    for row in variants:
        assert 0 < row["accuracy"]["value"] <= 1
        assert row["accuracy"]["n"] == 364
        assert row["size_bytes"] > 1000
        assert all(milliseconds > 0 for milliseconds in row["latency_ms"].values())
        assert row["passed"] is True


def test_a_network_that_prints_leaves_stdout_alone(tmp_path: Path) -> None:
    (tmp_path / "talking.py").write_text(
        "from torch import nn\n"
        "class Talking(nn.Linear):\n"
        "    def forward(self, images):\n"
        "        print('on the way')\n"
        "        return super().forward(images.mean((2, 3)))\n"
        "def net(num_classes):\n"
        "    return Talking(3, num_classes)\n"
    )
    document = {
        "name": "talking",
        "task": "classification",
        "data": {"source": "digits"},
        "transform": {"resize": [8, 8]},
        "model": {"factory": "talking:net"},
        "train": {"epochs": 1, "batch_size": 512, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document))
    done = run(str(recipe), "--json", "--until", "train", "--out", str(tmp_path / "runs"))
    assert json.loads(done.stdout)["name"] == "talking"
    assert "on the way" in done.stderr


def test_networks_are_listed() -> None:
    done = run("--list-networks", "--json")
    assert done.exit_code == 0
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["vgg16_bn"]["parameters"] == 138_365_992
    assert rows["resnet50"]["parameters"] == 25_557_032
    assert rows["unet_slim"]["options"] == ["width"]


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which the import of torch ends the process with status 7."""
    (tmp_path / "torch.py").write_text("raise SystemExit(7)")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", str(DIGITS)], "digits: classification of "),
        (["init", "."], "init: looking at .; "),
        (["adopt", "repo/model", "--data", "items"], "adopt: repo/model with items; "),
        (["shards", "photos", "out"], "shards: photos to out; "),
        (["extract", str(DIGITS), "out"], f"extract: test of {DIGITS} to out; "),
    ],
)
def test_first_sign_comes_before_torch_is_imported(
    arguments: list[str], said: str, without_torch: dict[str, str]
) -> None:
    done = started(without_torch, *arguments)
    assert done.returncode == 7
    assert done.stderr.startswith(said)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("flags", "processes", "said"),
    [
        (["--set", "seed.a=1"], "1", "seed is 1, it has no keys"),
        (["--search", "drop<=3"], "2", "torchrun shares one training"),
    ],
)
def test_wrong_arguments_are_told_before_torch_is_imported(
    flags: list[str], processes: str, said: str, without_torch: dict[str, str]
) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": processes, "RANK": "0"}
    done = started({**without_torch, **torchrun}, "build", str(DIGITS), *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("convserve build: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init", "photos", "--minutes", "0"], "--minutes"),
        (["init", "photos", "--name", "a/b"], "--name"),
        (["build", str(DIGITS), "--search", "size<=3"], "--search"),
        (["adopt", "repo/model", "--data", "items", "--variants", "fp99"], "--variants"),
        (["shards", "photos", "out", "--endpoint-url", "http://u:p@x"], "--endpoint-url"),
        (["shards", "photos", "s3://u:p@x/y"], "OUT"),
    ],
)
def test_wrong_options_are_status_2_before_torch_is_imported(
    arguments: list[str], said: str, without_torch: dict[str, str]
) -> None:
    done = started(without_torch, *arguments)
    assert done.returncode == 2, done.stderr
    assert f"Invalid value for {said}" in done.stderr.replace("'", "")


def started(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_last_line_is_the_commands_own() -> None:
    program = (
        "from training.cli.terminal import set_up_logging; set_up_logging()\n"
        "import torch._subclasses.fake_tensor"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
