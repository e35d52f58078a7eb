"""Whatever stands in manifest.json is a manifest, or refused in one line."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings

from serving.base.errors import InvalidManifest
from serving.repository.manifest import MANIFEST_FILE, Manifest, read_manifest
from tests.fuzz.changed import changed, check_line
from tests.support.mutation import changed_json
from tests.support.published import publish

with TemporaryDirectory() as _folder:
    MANIFEST = json.loads((publish(Path(_folder)) / MANIFEST_FILE).read_text())


# Of a network that was made elsewhere.
FOREIGN = {
    **MANIFEST,
    "normalization": None,
    "interface": {
        "input": {"name": "x", "layout": "NCHW", "range": [0, 1], "mean": [0, 0, 0]},
        "answer": {"output": "y", "holds": "logits"},
    },
}


@settings(settings.get_profile("fuzz"))
@given(changed([MANIFEST, FOREIGN], changed_json))
@example(b"[" * 200_000)
@example(b"9" * 5000)
@example(json.dumps({**MANIFEST, "parameters": 10**5000 // 10**4000}).encode())
@example(json.dumps({**MANIFEST, "transform": {"resize": [100_000, 100_000]}}).encode())
@example(json.dumps({**MANIFEST, "transform": {"resize": [-1, 0]}}).encode())
@example(json.dumps({**MANIFEST, "classes": ["\ud800"]}).encode())
@example(
    json.dumps({**MANIFEST, "variants": [{**MANIFEST["variants"][0], "file": "../x"}]}).encode()
)
@example(json.dumps({**FOREIGN, "interface": {"input": {"name": "x" * 10**5}}}).encode())
@example(json.dumps({**FOREIGN, "transform": {"resize": 10**6}}).encode())
def test_a_manifest_is_read_or_refused(text: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / MANIFEST_FILE).write_bytes(text)
        try:
            found = read_manifest(folder)
        except InvalidManifest as error:
            check_line(error)
            return
    assert isinstance(found, Manifest)
