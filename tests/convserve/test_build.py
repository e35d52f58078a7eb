"""`convserve.build`: what it says while it works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import digits_document, merged

SHORT = {
    "train.epochs": 1,
    "prune.train": {"epochs": 1},
    "export.variants": ["fp32", "int8-u8"],
    "verify.max_drop": 1.0,
    "verify.min_accuracy": 0.0,
    "verify.batch_sizes": [1],
}
# Twice in one process, as in a notebook: quiet, and then as it is by default.
PROGRAM = """
import json, logging, sys, warnings
import convserve

recipe = json.loads(sys.argv[1])
convserve.build(recipe, out="quiet", model_repository="models", quiet=True)
warnings.warn("of the caller")
print("told from here", file=sys.stderr)
convserve.build(recipe, out="told", model_repository="models")
assert logging.getLogger().handlers == []
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Standard error of a build that is quiet, and of one that is not."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(merged(digits_document(), SHORT))],
        cwd=tmp_path_factory.mktemp("notebook"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    quiet, _, told = done.stderr.partition("told from here\n")
    return quiet, told


def test_quiet_build_says_nothing(said: tuple[str, str]) -> None:
    [line] = said[0].splitlines()
    assert line.endswith("UserWarning: of the caller")


def test_build_tells_its_stages_and_nothing_of_its_libraries(said: tuple[str, str]) -> None:
    lines = said[1].splitlines()
    assert lines[0] == "data: started"
    assert lines[-1].startswith("publish: done in ")
    stages = ("data", "needs", "train", "prune", "quantize", "export", "verify", "publish")
    assert [line for line in lines if not line.startswith(stages)] == []


def test_lines_go_to_the_log_of_the_caller_where_there_is_one(tmp_path: Path) -> None:
    program = """
import json, logging, sys
import convserve

logging.basicConfig(format="mine %(name)s %(message)s")
convserve.build(json.loads(sys.argv[1]), until="train", quiet=True)
"""
    document = merged(digits_document(), SHORT)
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(document)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("mine training.") for line in done.stderr.splitlines())
    assert "data: warning" in done.stderr
