"""A real Triton still loads a model folder that was adopted, and answers as it did before.

Its ONNX Runtime backend is a stand-in (tests/peers/triton.py); folder and config are read by Triton
itself.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as client
from typer.testing import CliRunner

from tests.helm.tools import free_ports
from tests.peers import triton
from tests.peers.triton import TritonProcess, write_onnx_backend
from tests.support.foreign import NETWORKS, Foreign, write_foreign, write_items
from training.cli.adopt import app
from training.pipeline.adopt import judging

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(triton.missing() is not None, reason=str(triton.missing())),
]


def answers(url: str, name: str, network: Foreign) -> dict[str, np.ndarray]:
    inputs = []
    for tensor, one in network.one(np.random.default_rng(3)).items():
        array = np.ascontiguousarray(one[np.newaxis] if network.batches else one)
        inputs.append(client.InferInput(tensor, array.shape, "FP32"))
        inputs[-1].set_data_from_numpy(array)
    found = client.InferenceServerClient(url).infer(name, inputs)
    return {output: found.as_numpy(output) for output in network.outputs}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonProcess]:
    for name in NETWORKS:
        write_foreign(tmp_path / "repository", name)
    process = TritonProcess(
        tmp_path / "repository", list(NETWORKS), free_ports(3), tmp_path / "log",
        write_onnx_backend(tmp_path / "backends"),
    )  # fmt: skip
    try:
        yield process.wait_ready()
    finally:
        process.stop()


def test_triton_loads_what_was_adopted_and_answers_as_before(
    server: TritonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_LATENCY_SECONDS", 0.0)
    for name, network in NETWORKS.items():
        before = answers(server.url, name, network)
        model, data = tmp_path / "repository" / name, write_items(tmp_path / name, network)
        adopted = CliRunner().invoke(app, ["adopt", str(model), "--data", str(data)])
        assert adopted.exit_code == 0, adopted.output
        assert (model / "1" / "manifest.json").exists()
        assert server.load(name) == ""
        for output, array in answers(server.url, name, network).items():
            np.testing.assert_array_equal(array, before[output])
