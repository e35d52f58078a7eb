"""With which shapes batches are timed, and what a guess that does not run may do: nothing."""

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.base.errors import EngineUnavailable
from serving.base.metrics import EngineMetrics
from serving.batching.core_turns import CoreTurns
from serving.models.loading import latencies
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.config_completion import read_config
from serving.models.loading.loaded import LoadedVersion
from serving.models.loading.version import load_model
from serving.repository.layout import scan_model
from tests.serving.batching.fake_engine import answered
from tests.support.detector import write_detector
from tests.support.published import CPU_ENGINES


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latencies, "_MEASURE_SECONDS", 0.0)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    write_detector(tmp_path / "yolo" / "1" / "model.onnx")
    (tmp_path / "yolo" / "config.pbtxt").write_text("max_batch_size: 8\n")
    return tmp_path / "yolo"


def load(folder: Path, **settings: Any) -> LoadedVersion:
    given = LoadSettings(allow_ungated=True, threads=1, **settings)
    config = read_config(scan_model(folder))
    return load_model(folder, config, 1, given, EngineMetrics(), CoreTurns(1))


def answers(model: LoadedVersion, *sizes: tuple[int, int]) -> list[tuple[int, ...]]:
    async def run() -> list[tuple[int, ...]]:
        shapes = []
        for height, width in sizes:
            images = np.zeros((2, 3, height, width), np.float32)
            ticket = model.port.admit(2, 0, math.inf)
            answer = await answered(model.port, ticket, [{"images": images}])
            shapes.append(answer.outputs["boxes"].shape)
        return shapes

    try:
        return asyncio.run(run())
    finally:
        model.close()


@pytest.mark.parametrize("engine", [*CPU_ENGINES, "auto"])
def test_a_detector_serves_at_every_size_that_its_file_takes(engine: str, detector: Path) -> None:
    model = load(detector, engine=engine)
    assert min(model.facts.latency.values()) > 0
    sizes = [(64, 64), (320, 352), (32, 640)]
    assert answers(model, *sizes) == [(2, 6, height, width) for height, width in sizes]


def only_takes(side: int, folder: Path) -> None:
    """A network that makes a row of each image of `side` pixels, so that no other size runs."""
    constant = numpy_helper.from_array(np.array([-1, 3 * side * side]), "row")
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Reshape", ["images", "row"], ["boxes"])],
        "one size",
        [info("images", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [info("boxes", TensorProto.FLOAT, ["b", 3 * side * side])],
        [constant],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(body, opset_imports=opset, ir_version=8), folder / "1" / "model.onnx"
    )


def test_a_network_that_no_guess_runs_is_served_untimed(detector: Path) -> None:
    only_takes(47, detector)
    # OpenVINO does not look at what is reshaped, and runs them all.
    model = load(detector, engine="onnxruntime")
    model.close()
    assert model.facts.latency == {}


@pytest.mark.parametrize(
    "text",
    [
        'parameters { key: "timing_shapes" value { string_value: "images:3x96x64" } }',
        'model_warmup { name: "w" batch_size: 1 inputs { key: "images" '
        "value { data_type: TYPE_FP32 dims: [ 3, 96, 64 ] random_data: true } } }",
    ],
)
def test_shapes_that_the_config_gives_are_timed(
    text: str, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def measure(engine: object, shapes: Any, sizes: Any, seconds: float) -> dict[int, float]:
        timed.append([spec.shape for spec in shapes])
        return dict.fromkeys(sizes, 10.0)

    monkeypatch.setattr(latencies, "measure_latency", measure)
    (detector / "config.pbtxt").write_text("max_batch_size: 8\n" + text)
    load(detector).close()
    assert set(map(str, timed)) == {"[(-1, 3, 96, 64)]"}


def test_shapes_that_the_config_gives_and_that_do_not_run_are_refused(detector: Path) -> None:
    (detector / "config.pbtxt").write_text(
        'max_batch_size: 8 parameters { key: "timing_shapes" '
        'value { string_value: "images:3x33x33" } }'
    )
    with pytest.raises(EngineUnavailable, match=r"with the shapes that config\.pbtxt gives"):
        load(detector, engine="onnxruntime")


@pytest.mark.parametrize("value", ["", "images", "images:3", "images:0x1x1", "other:3x32x32", "x"])
def test_a_parameter_that_fits_no_input_is_named(value: str, detector: Path) -> None:
    (detector / "config.pbtxt").write_text(
        f'max_batch_size: 8 parameters {{ key: "timing_shapes" '
        f'value {{ string_value: "{value}" }} }}'
    )
    with pytest.raises(EngineUnavailable, match=r"parameters\.timing_shapes"):
        load(detector, engine="onnxruntime")


def test_indices_into_a_table_are_timed_with_rows_that_it_has(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Gather", ["table", "tokens"], ["out"])],
        "embedding",
        [info("tokens", TensorProto.INT64, ["b", "length"])],
        [info("out", TensorProto.FLOAT, ["b", "length", 4])],
        [numpy_helper.from_array(np.zeros((2, 4), np.float32), "table")],
    )
    (tmp_path / "text" / "1").mkdir(parents=True)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(body, opset_imports=opset, ir_version=8),
        tmp_path / "text" / "1" / "model.onnx",
    )
    model = load(tmp_path / "text", engine="onnxruntime")
    model.close()
    assert min(model.facts.latency.values()) > 0
