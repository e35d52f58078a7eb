"""The description of a served version on its way to another process."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from serving.models.facts import ModelFacts
from serving.repository.manifest import Manifest, read_manifest
from serving.repository.model_config import read_model_config
from tests.support.published import publish

# A process that reads facts and writes them again, with what it has understood of them.
_ECHO = """
import sys
from serving.models.facts import ModelFacts

facts = ModelFacts.from_json(sys.stdin.buffer.read())
print(facts.name, facts.max_rows, facts.labels, facts.evidence, file=sys.stderr)
loaded = {"cv2", "openvino", "onnxruntime", "grpc"} & sys.modules.keys()
assert not loaded, loaded
sys.stdout.buffer.write(facts.to_json())
"""


_BATCHING = """dynamic_batching {
  priority_levels: 2 default_priority_level: 2 max_queue_delay_microseconds: 500
  priority_queue_policy { key: 1 value { timeout_action: DELAY max_queue_size: 3 } }
}
parameters { key: "wörter" value { string_value: "é" } }
"""


def facts_of(folder: Path, manifest: Manifest | None) -> ModelFacts:
    file = folder / "config.pbtxt"
    file.write_text(file.read_text().replace("dynamic_batching { }", _BATCHING))
    config = read_model_config(folder)
    return ModelFacts(
        config,
        "7",
        engine_name="onnxruntime",
        variant="fp32",
        manifest=manifest,
        inputs=config.inputs,
        outputs=config.outputs,
        output_labels={"logits": ("röd", "grön")},
        rejected=("int8 in openvino: slower",),
        latency={1: 0.1, 4: 1 / 3},
        device_bytes=1 << 40,
        max_image_pixels=10,
    )


@pytest.mark.parametrize("described", [True, False])
def test_facts_come_back_whole_from_another_process(described: bool, tmp_path: Path) -> None:
    version = publish(tmp_path)
    facts = facts_of(version.parent, read_manifest(version) if described else None)
    assert (facts.evidence is not None) == described
    assert facts.config.slo == math.inf
    echo = subprocess.run(
        [sys.executable, "-c", _ECHO], input=facts.to_json(), capture_output=True, check=False
    )
    assert echo.returncode == 0, echo.stderr.decode()
    assert ModelFacts.from_json(echo.stdout) == facts
    understood = f"{facts.name} {facts.max_rows} {facts.labels} {facts.evidence}"
    assert echo.stderr.decode().strip() == understood


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b'{"version": 1}'])
def test_other_texts_are_no_facts(text: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ModelFacts.from_json(text)
