"""The order of the house: how large files, functions and packages may become."""

import ast
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("convserve", "serving", "scoring", "training", "loadtest")
MAX_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_MODULES = 16
MAX_ENTRIES = 11


def tracked(pattern: str) -> list[Path]:
    """Files under version control, or those of an unpacked archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_too_long_to_hold_in_mind() -> None:
    written = [
        path
        for path in tracked("*.py")
        if path.relative_to(ROOT).parts[0] not in ("tests",) and "gen" not in path.parts
    ]
    lengths = {relative(path): len(path.read_text().splitlines()) for path in written}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_function_of_the_server_is_longer_than_a_screen() -> None:
    found = {}
    for path in tracked("serving/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    found[f"{relative(path)}:{node.name}"] = lines
    assert found == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_has_more_modules_than_one_can_tell_apart(package: str) -> None:
    modules = Counter(relative(path.parent) for path in tracked(f"{package}/*.py"))
    assert {name: count for name, count in modules.items() if count > MAX_MODULES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_top_of_a_package_is_read_at_a_glance(package: str) -> None:
    entries = {path.relative_to(ROOT / package).parts[0] for path in tracked(f"{package}/*")}
    entries -= {"py.typed"}  # for type checkers; nobody reads it
    assert len(entries) <= MAX_ENTRIES, sorted(entries)


def test_the_rooms_in_contributing_are_the_rooms_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for package in PACKAGES:
        rooms = {path.parent for path in tracked(f"{package}/*.py")} - {ROOT / package}
        for room in rooms:
            assert f"`{relative(room)}/`" in text, relative(room)


def test_no_script_has_the_name_of_a_package() -> None:
    """A script's folder comes first on the path: `protos.py` there would hide `protos/`."""
    packages = {path.relative_to(ROOT).parts[0] for path in tracked("*/__init__.py")}
    assert {path.stem for path in tracked("scripts/*.py")} & packages == set()


def test_the_images_that_serve_have_the_native_wire() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [native] = extras["optional-dependencies"]["native"]
    for lock in ("requirements-serving.lock", "requirements-serving-gpu.lock"):
        assert f"\n{native} \\\n" in (ROOT / lock).read_text()
