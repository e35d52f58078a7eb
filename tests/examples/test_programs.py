"""The programs of examples/ that need nothing but Python, or bash and curl, and a real server."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.examples.conftest import COLOURS, EXAMPLES, ROOT, Run
from tests.support.process import ServerProcess

# Each with the options that it needs beside --url; MODEL and IMAGES come after these.
CLASSIFIERS = [
    "python/classify.py",
    "python/classify_async.py",
    "python/classify_triton.py",
    "curl/classify.sh",
]
PROGRAMS = [*CLASSIFIERS, "python/camera.py", "python/folder_job.py"]


def address(server: ServerProcess, name: str) -> str:
    return server.http if name.endswith(".sh") else server.url


def arguments(name: str, photos: Path, model: str = "colours") -> list[str | Path]:
    """What a program is called with beside --url."""
    match name:
        case "python/camera.py":
            return ["--model", model, "--frames", "3", photos / "0"]
        case "python/folder_job.py":
            return ["--model", model, photos]
        case _:
            return [model, *sorted(photos.rglob("*.png"))]


@pytest.fixture(autouse=True)
def _curl() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_images_get_their_labels(run: Run, server: ServerProcess, photos: Path, name: str) -> None:
    done = run(name, "--url", address(server, name), *arguments(name, photos))
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"(\w+)\.png: .*?\b(red|green|blue)\b", done.stdout))
    assert found == {colour: colour for colour in COLOURS}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_is_no_image_is_said_and_the_rest_is_answered(
    run: Run, server: ServerProcess, photos: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "text.png").write_text("not an image")
    files = [tmp_path / "text.png", tmp_path / "absent.png", photos / "0" / "red.png"]
    done = run(name, "--url", address(server, name), "colours", *files)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert re.search(r"text\.png: .*not an image", said), said
    assert re.search(r"absent\.png: (No such file|cannot be read)", said), said
    assert re.search(r"red\.png: .*red", done.stdout)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_server_that_is_not_there_is_said(run: Run, nobody: str, photos: Path, name: str) -> None:
    url = f"http://{nobody}" if name.endswith(".sh") else nobody
    done = run(name, "--url", url, *arguments(name, photos))
    assert done.returncode == 1
    assert nobody in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_model_that_is_not_there_is_said(
    run: Run, server: ServerProcess, photos: Path, name: str
) -> None:
    done = run(name, "--url", address(server, name), *arguments(name, photos, "absent"))
    assert done.returncode == 1
    assert "no model 'absent'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_what_it_does(run: Run, name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert re.search(r"^Classifies ", done.stdout, re.MULTILINE)
    assert "--url" in done.stdout
    assert run(name, "--no-such-option").returncode == 2


def test_the_newest_picture_of_a_camera_wins(
    run: Run, server: ServerProcess, photos: Path, tmp_path: Path
) -> None:
    # As many as the source has, as fast as they come: far more than the server is asked for.
    camera = tmp_path / "camera"
    camera.mkdir()
    for number, name in enumerate(("red", "green", "blue")):
        shutil.copy(photos / str(number) / f"{name}.png", camera / f"{number}.png")
    done = run(
        *("python/camera.py", "--url", server.url, "--model", "colours"),
        *("--fps", "0", "--frames", "3000", "--deadline", "30", camera),
    )
    assert done.returncode == 0, done.stderr
    *answers, last = done.stdout.splitlines()
    counts = {name: int(number) for name, number in (part.split() for part in last.split(", "))}
    assert counts["seen"] == 3000
    assert counts["seen"] == counts["answered"] + counts["dropped"] + counts["refused"]
    assert counts["dropped"] > 0
    assert len(answers) == counts["answered"]
    # None is newer than the last picture, so that it is never dropped.
    assert answers[-1].startswith("picture 3000: blue")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """400 images, the first of which is none."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(400):
        colour = list(COLOURS.values())[number % 3]
        Image.new("RGB", (16, 16), colour).save(folder / f"{number:03}.png")
    (folder / "000.png").write_text("not an image")
    return folder


def rows_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_folder_job_that_is_killed_goes_on_without_a_row_twice_or_missing(
    run: Run, server: ServerProcess, many: Path, tmp_path: Path
) -> None:
    job = [sys.executable, str(EXAMPLES / "python/folder_job.py"), "--url", server.url]
    job += ["--model", "colours", "--concurrency", "2", str(many)]
    process = subprocess.Popen(job, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    out = tmp_path / "labels.jsonl"
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") > 10):
        time.sleep(0.005)  # between two looks at a condition that no event tells of
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(rows_of(out))
    assert 10 < before < 400
    with out.open("a") as file:
        file.write('{"image": "cut')  # as a kill in the middle of a line leaves it

    done = run("python/folder_job.py", "--url", server.url, "--model", "colours", many)
    assert done.returncode == 0, done.stderr
    assert f"400 images, {before} done, {400 - before} to go" in done.stderr
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [f"{many}/{number:03}.png" for number in range(400)]
    assert "not an image" in str(rows[0]["error"])
    assert [row["label"] for row in rows[1:4]] == ["green", "blue", "red"]

    again = run("python/folder_job.py", "--url", server.url, "--model", "colours", many)
    assert "400 done, 0 to go" in again.stderr

    # Another folder, in which the files have the same names.
    other = tmp_path / "other"
    shutil.copytree(many, other)
    refused = run("python/folder_job.py", "--url", server.url, "--model", "colours", other)
    assert refused.returncode == 1
    assert "labels.jsonl: has none of the images of" in refused.stderr
    assert rows_of(out) == rows


def test_the_table_of_examples_names_each_and_no_other() -> None:
    listed = set(re.findall(r"\]\(([\w./-]+)\)", (EXAMPLES / "README.md").read_text()))
    programs = {*PROGRAMS, "node/classify.mjs", "java/Classify.java", "browser/index.html"}
    assert listed >= {*programs, "notebook/first-service.ipynb"}
    assert all((EXAMPLES / name).exists() for name in listed)
