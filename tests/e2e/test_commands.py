"""The commands as a person runs them: what they print, and how they fail."""

import importlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from convserve.commands import COMMANDS
from serving.cli import predictor
from tests.support.process import ServerProcess
from tests.support.published import publish

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "digits-resnet20.yaml"
COLOURS = {"red": (210, 20, 30), "green": (10, 200, 40), "blue": (20, 30, 220)}


Ended = subprocess.CompletedProcess[str]


def convserve(name: str, *arguments: str | Path) -> Ended:
    """A command in this process, which has loaded already what it imports. An exception that it
    lets through, of which a person would see the traceback, fails the test."""
    app = importlib.import_module(COMMANDS[name][0]).app
    words = [name, *map(str, arguments)]
    done = CliRunner().invoke(app, words, prog_name="convserve", catch_exceptions=False)
    return Ended(words, done.exit_code, done.stdout, done.stderr)


def process(*arguments: str | Path) -> Ended:
    """The same as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "convserve", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def failed(result: Ended, status: int, *said: str) -> None:
    """One clear line on stderr that says these words, and no traceback."""
    assert result.returncode == status, result
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr, result.stderr
    if status == 1:
        assert result.stderr.startswith("convserve")
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of each colour, a folder a class; one of the red ones is green."""
    root = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for index in range(4):
            shown = COLOURS["green"] if (name, index) == ("red", 3) else colour
            Image.new("RGB", (20 + index, 16), shown).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images left red, right blue, with their masks, and classes in another order."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("blue\ngreen\nred\n")
    for index in range(3):
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, :16], pixels[:, 16:] = COLOURS["red"], COLOURS["blue"]
        mask = np.full((16, 32), 2, np.uint8)
        mask[:, 16:] = 0
        mask[0, :] = 255  # not labelled
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return root


@pytest.fixture(params=["url", "repository"])
def source(
    request: pytest.FixtureRequest, server: ServerProcess, colours: Path
) -> tuple[str, str | Path]:
    """Where a command finds the model: a server, or a repository on disk."""
    if request.param == "url":
        return "--url", server.url
    return "--model-repository", colours


def test_help_names_every_command() -> None:
    result = process("--help")
    assert result.returncode == 0
    for name in ("build", "serve", "models", "predict", "evaluate", "loadtest", "doctor"):
        assert f"\n  {name}" in result.stdout
        assert convserve(name, "--help").returncode == 0


def test_unknown_command_names_the_nearest() -> None:
    failed(process("predikt"), 2, "no command 'predikt'", "did you mean 'predict'")


def test_doctor_says_what_runs_here() -> None:
    report = json.loads(process("doctor", "--json").stdout)
    assert report["engines"]["onnxruntime"]["available"]
    assert report["engines"]["onnxruntime"]["version"]
    assert report["wire"]["native"] == (report["wire"]["reason"] is None)
    text = convserve("doctor").stdout
    assert "onnxruntime" in text
    assert "gRPC wire     " + ("native" if report["wire"]["native"] else "grpcio") in text


def test_predict_prints_embeddings(source: tuple[str, str], pictures: Path) -> None:
    words = ("predict", pictures / "red" / "0.png", "--model", "points", *source)
    [found] = json.loads(process(*words, "--json").stdout)
    assert found["variant"] == "fp32"
    assert len(found["embedding"]) == 3
    assert "0.png (fp32)  3 values, cosine 1.0000" in process(*words).stdout


def test_predict_prints_labels(source: tuple[str, str], pictures: Path) -> None:
    result = process("predict", pictures / "red" / "0.png", "--model", "colours", *source, "--json")
    [found] = json.loads(result.stdout)
    assert found["labels"][0]["name"] == "red"
    assert found["variant"] == "fp32"


def test_predict_writes_mask_and_overlay(
    source: tuple[str, str], scenes: Path, tmp_path: Path
) -> None:
    image = scenes / "images" / "0.png"
    result = convserve("predict", image, "--model", "regions", *source, "--save", tmp_path)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "0.mask.png") as picture:
        mask = np.asarray(picture)
    assert mask[:, :16].max() == 0
    assert mask[:, 16:].min() == 2
    with Image.open(tmp_path / "0.overlay.png") as picture:
        assert picture.size == (32, 16)
    assert "50.00%  red" in result.stdout


def test_predict_names_the_folder_that_takes_no_files(server: ServerProcess, scenes: Path) -> None:
    image = scenes / "images" / "0.png"
    source = ("--url", server.url)
    below = image / "masks"
    result = convserve("predict", image, "--model", "regions", *source, "--save", below)
    failed(result, 1, f"--save {below}: Not a directory")
    result = convserve("predict", image, "--model", "regions", *source, "--save", image)
    assert result.returncode == 2
    assert "is not a folder" in " ".join(result.stderr.replace("│", " ").split())


def test_predict_of_a_folder_names_the_command_for_folders(pictures: Path) -> None:
    image = pictures / "red" / "0.png"
    result = convserve("predict", image, pictures, "--model", "m", "--url", "127.0.0.1:1")
    failed(result, 2, f"{pictures}: a folder", "convserve score", "--model m --out")


def test_predict_goes_on_after_a_bad_image_and_exits_with_1(
    source: tuple[str, str], pictures: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut")
    result = convserve(
        "predict", broken, tmp_path / "absent.png", pictures / "blue" / "0.png",
        "--model", "colours", *source,
    )  # fmt: skip
    assert result.returncode == 1
    assert "blue" in result.stdout
    assert "broken.jpg" in result.stderr
    assert "absent.png: No such file" in result.stderr


def test_evaluate_measures_top1_with_its_interval(source: tuple[str, str], pictures: Path) -> None:
    result = process("evaluate", "--model", "colours", "--data", pictures, *source, "--json")
    report = json.loads(result.stdout)
    assert report["n"] == 12
    assert report["top1"]["value"] == pytest.approx(11 / 12)
    assert report["top1"]["low"] < 11 / 12 < report["top1"]["high"]
    assert report["classes"]["red"]["recall"] == pytest.approx(0.75)
    assert report["classes"]["green"]["precision"] == pytest.approx(0.8)


def test_evaluate_measures_iou_with_classes_by_name(source: tuple[str, str], scenes: Path) -> None:
    result = convserve("evaluate", "--model", "regions", "--data", scenes, *source, "--json")
    report = json.loads(result.stdout)
    assert report["n"] == 3
    assert report["miou"]["value"] == pytest.approx(1.0)
    assert set(report["classes"]) == {"red", "blue"}


def test_evaluate_reads_masks_in_colours_and_of_another_size_by_what_is_said(
    server: ServerProcess, scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text("name,r,g,b\nred,9,0,0\nblue,0,0,9\n")
    (tmp_path / "outlines").mkdir()
    for file in (scenes / "images").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
        mask = np.zeros((8, 16, 3), np.uint8)
        mask[:, :8], mask[:, 8:] = (9, 0, 0), (0, 0, 9)
        mask[0, 0] = 1, 2, 3
        Image.fromarray(mask).save(tmp_path / "outlines" / f"{file.stem}_gt.png")
    result = convserve(
        "evaluate", "--model", "regions", "--data", tmp_path, "--url", server.url, "--json",
        "--images", ".", "--masks", "outlines", "--mask-suffix", "_gt", "--colours", "table.csv",
    )  # fmt: skip
    assert json.loads(result.stdout)["miou"]["value"] == pytest.approx(1.0)
    assert "values of masks that are no class and do not count: (1, 2, 3)" in result.stderr


def test_evaluate_verifies_and_identifies_by_embedding(
    source: tuple[str, str], pictures: Path
) -> None:
    result = convserve("evaluate", "--model", "points", "--data", pictures, *source, "--json")
    report = json.loads(result.stdout)
    assert (report["n"], report["identities"]) == (12, 3)
    assert report["pairs"] == {"genuine": 18, "impostor": 48}
    # One of the red ones is green: of nine probes it alone is taken for another.
    assert report["rank1"]["value"] == pytest.approx(8 / 9)
    assert 0 < report["eer"] < 0.5
    told = convserve("evaluate", "--model", "points", "--data", pictures, *source).stdout
    assert f"auc  {report['auc']:.2%}" in told
    assert "rank1" in convserve("evaluate", "--model", "points", "--data", pictures, *source).stdout


def test_evaluate_names_broken_files_and_counts_the_rest(
    source: tuple[str, str], pictures: Path, tmp_path: Path
) -> None:
    for name in COLOURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes((pictures / name / "0.png").read_bytes())
    (tmp_path / "red" / "bad.jpg").write_bytes(b"no image")
    result = convserve("evaluate", "--model", "colours", "--data", tmp_path, *source)
    assert result.returncode == 0
    assert "3 images" in result.stdout
    assert "bad.jpg" in result.stderr


def test_evaluate_passes_over_what_tools_leave_and_names_what_it_leaves_out(
    server: ServerProcess, pictures: Path, scenes: Path, tmp_path: Path
) -> None:
    here = ("--url", server.url, "--json")
    people = shutil.copytree(pictures, tmp_path / "pictures")
    for name in (".ipynb_checkpoints/0.png", "__MACOSX/._0.png", "red/._0.png", "red/@eaDir/0.png"):
        (people / name).parent.mkdir(exist_ok=True)
        (people / name).write_bytes(b"junk")
    for name in ("red/a.tif", "red/b.gif", "blue/c.TIF"):
        (people / name).touch()
    for model in ("colours", "points"):
        result = convserve("evaluate", "--model", model, "--data", people, *here)
        report = json.loads(result.stdout)
        assert (report["n"], report["failed"]) == (12, {})
        assert report["left_out"] == {".tif": 2, ".gif": 1}
        assert "files left out: 2 .tif, 1 .gif; images end in .jpg" in result.stderr
    copied = shutil.copytree(scenes, tmp_path / "scenes")
    for kind in ("images", "masks"):
        (copied / kind / "a").mkdir()
        (copied / kind / "0.png").rename(copied / kind / "a" / "0.png")
    (copied / "images" / "._1.png").write_bytes(b"junk")
    result = convserve("evaluate", "--model", "regions", "--data", copied, *here)
    report = json.loads(result.stdout)
    assert (report["n"], report["failed"], report["left_out"]) == (3, {}, {})


def test_evaluate_names_values_that_do_not_count(
    server: ServerProcess, scenes: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(scenes, tmp_path / "scenes")
    mask = np.full((16, 32), 128, np.uint8)
    mask[:, :16] = 2
    Image.fromarray(mask).save(copied / "masks" / "0.png")
    result = convserve(
        "evaluate", "--model", "regions", "--data", copied, "--url", server.url, "--json"
    )
    assert json.loads(result.stdout)["n"] == 3
    assert "values of masks that are no class and do not count: 128" in result.stderr


def test_models_lists_a_repository_and_a_server(server: ServerProcess, colours: Path) -> None:
    served = json.loads(process("models", "--url", server.url, "--json").stdout)
    assert {(line["name"], line["state"]) for line in served} == {
        ("colours", "READY"),
        ("points", "READY"),
        ("regions", "READY"),
    }
    assert served[0]["latency_ms"]["1"] > 0
    assert served[0]["measure"] == "top1"
    assert 0 < served[0]["accuracy"]["value"] <= 1
    on_disk = json.loads(convserve("models", "--model-repository", colours, "--json").stdout)
    assert {line["engine"] for line in on_disk} == {"onnxruntime", "openvino"}
    assert on_disk[0]["accuracy"] == served[0]["accuracy"]
    assert on_disk[0]["latency_ms"]["1"] > 0
    assert "colours" in convserve("models", "--model-repository", colours).stdout


def test_models_says_what_is_broken(tmp_path: Path) -> None:
    (publish(tmp_path) / "manifest.json").write_text('{"schema_version": "1.0"}')
    [line] = json.loads(convserve("models", "--model-repository", tmp_path, "--json").stdout)
    assert line["state"] == "broken"
    assert "architecture: Field required" in line["reason"]


def test_bad_arguments_are_one_clear_line(
    colours: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pictures / "red" / "0.png"
    here = ("--model-repository", colours)
    failed(process("serve"), 2, "--model-repository: missing")
    failed(convserve("serve", "--model-repository", tmp_path / "no"), 1, "no: no such folder")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Ctrl-C works as before
    failed(convserve("serve", *here, "--grpc-port", "70000"), 2, "--grpc-port", "65535", "70000")
    failed(convserve("serve", *here, "--model-control", "auto"), 2, "auto")
    for asked in (("serve",), ("models",), ("score", tmp_path, "--model", "m", "--out", "x")):
        failed(convserve(*asked, *here, "--engine", "cuda"), 2, "--engine", "openvino", "'cuda'")
    failed(convserve("predict", image, "--model", "nothing", *here), 1, "'nothing'")
    failed(convserve("predict", image, "--model", "colours"), 2, "--url")
    monkeypatch.setattr(predictor, "_LISTENING", 0.0)  # it does not wait for a server to start
    failed(
        convserve("predict", image, "--model", "colours", "--url", "127.0.0.1:1"),
        1,
        "UNAVAILABLE",
    )
    failed(convserve("evaluate", "--model", "colours", "--data", tmp_path, *here), 1, "no images")
    alone = tmp_path / "people" / "somebody"
    alone.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(alone / "0.png")
    failed(
        convserve("evaluate", "--model", "points", "--data", alone.parent, *here),
        1,
        "two identities",
    )
    purple = tmp_path / "colours" / "purple"
    purple.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(purple / "0.png")
    failed(
        convserve("evaluate", "--model", "colours", "--data", purple.parent, *here),
        1,
        "'purple'",
        "red, green, blue",
    )
    failed(convserve("models", "--url", "127.0.0.1:1"), 1, "UNAVAILABLE")
    for command in ("serve", "models"):
        failed(convserve(command, *here, "--engine", "openvno"), 2, "--engine", "openvino")


def test_settings_come_from_flags_then_environment_then_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("grpc_prot: 1\n")
    failed(convserve("serve", "--config", file), 2, "grpc_prot", "did you mean 'grpc_port'")


def test_build_refuses_to_publish_into_a_url() -> None:
    result = convserve("build", RECIPE, "--model-repository", "s3://bucket/models")
    assert result.returncode == 2
    assert "published into a folder" in result.stderr


def test_missing_package_is_named_with_what_brings_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; "
        f"sys.argv = ['convserve', 'build', {str(RECIPE)!r}, '--out', {str(tmp_path)!r}]; "
        "from convserve.__main__ import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    # The first line, that the build begins, comes before torch is imported.
    begun, *last = result.stderr.splitlines(keepends=True)
    assert "loading torch" in begun
    result.stderr = "".join(last)
    failed(result, 1, "'torch' is not installed", "convserve[train]")
