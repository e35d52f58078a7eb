"""The Java client, made by the commands of its README."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, ROOT, SECONDS
from tests.helm.tools import missing
from tests.support.process import ServerProcess

README = (EXAMPLES / "java" / "README.md").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the client after all commands of the README but the last, which runs it."""
    for needed in ("protoc", "grpc_java_plugin", "javac"):
        if shutil.which(needed) is None:
            missing(f"{needed} is not installed")
    root = tmp_path_factory.mktemp("java")
    shutil.copytree(EXAMPLES / "java", root / "examples" / "java")
    (root / "protos").symlink_to(ROOT / "protos")
    folder = root / "examples" / "java"
    *making, _ = commands()
    subprocess.run(["bash", "-ec", "\n".join(making)], cwd=folder, check=True, timeout=SECONDS)
    return folder


def commands() -> list[str]:
    [block] = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return block.replace("\\\n", "").splitlines()


def ask(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the last command of the README with other arguments."""
    command = commands()[-1]
    assert command.endswith("Classify digits image.png")
    program = command.removesuffix(" digits image.png")
    return subprocess.run(
        ["bash", "-c", f'{program} "$@"', "bash", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.slow
def test_it_answers_and_says_what_is_wrong(
    built: Path, server: ServerProcess, photos: Path, nobody: str
) -> None:
    images = sorted(photos.rglob("*.png"))
    done = ask(built, "--url", server.url, "colours", *images)
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"(\w+)\.png: (\w+) \d", done.stdout))
    assert found == {"red": "red", "green": "green", "blue": "blue"}

    done = ask(built, "--url", server.url, "absent", images[0], photos / "absent.png")
    assert done.returncode == 1
    assert "no model 'absent'" in done.stderr
    assert "absent.png: cannot be read" in done.stderr

    done = ask(built, "--url", nobody, "colours", images[0])
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
    assert "is the server running" in done.stderr
    assert "\tat " not in done.stderr

    assert "usage" in ask(built, "--help").stdout
    assert ask(built, "colours").returncode == 2
