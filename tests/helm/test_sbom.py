"""Bills of materials of the locks."""

import json
import re
from pathlib import Path

import pytest

from tests.helm.tools import ROOT, program, succeed


@pytest.mark.parametrize("lock", ["serving", "serving-gpu", "train"])
def test_every_locked_package_is_listed_with_its_version(lock: str, tmp_path: Path) -> None:
    """As `make sbom` writes it."""
    path, written = ROOT / f"requirements-{lock}.lock", tmp_path / "sbom.json"
    succeed([
        *(program("cyclonedx-py"), "requirements", str(path), "--pyproject"),
        *(str(ROOT / "pyproject.toml"), "--output-reproducible", "--output-format", "JSON"),
        *("--output-file", str(written)),
    ])  # fmt: skip
    document = json.loads(written.read_text())
    assert document["metadata"]["component"]["name"] == "convserve"
    locked = dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", path.read_text(), re.MULTILINE))
    assert {one["name"]: one["version"] for one in document["components"]} == locked
    hashes = [one["externalReferences"][0]["hashes"] for one in document["components"]]
    assert all(hashes)
