"""Models of the fake engine in this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from serving.engines import EngineOptions
from serving.models.loading import latencies, load_thread
from serving.models.loading import version as loading
from serving.models.loading.loaded import LoadedVersion
from serving.models.workers import Workers
from tests.serving.batching.fake_engine import FakeEngine


class FakeEngines:
    """Stands in for `load_engine`: each load makes an engine that the test holds."""

    def __init__(self) -> None:
        self.loaded: list[FakeEngine] = []
        self.closed: list[FakeEngine] = []
        self.failure: Exception | None = None

    def load(self, name: str, file: Path, options: EngineOptions) -> FakeEngine:
        if self.failure is not None:
            raise self.failure
        engine = FakeEngine()
        # An engine that is held says when it is let go.
        engine.close = lambda: self.closed.append(engine)  # type: ignore[method-assign]
        self.loaded.append(engine)
        return engine


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> FakeEngines:
    fakes = FakeEngines()
    monkeypatch.setattr(loading, "load_engine", fakes.load)
    monkeypatch.setattr(latencies, "_MEASURE_SECONDS", 0.0)
    # A batch that waits for the test must not hold the event loop.
    monkeypatch.setattr(loading, "_INLINE_SECONDS", 0.0)

    def here(*arguments: Any, apart: bool) -> LoadedVersion:
        return loading.load_model(*arguments)  # no other process has these engines

    monkeypatch.setattr(load_thread, "load_model", here)
    return fakes


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(1) as pool:
        yield pool


def write_model(repository: Path, name: str = "doubles", version: int = 1) -> Path:
    """A model folder for the fake engine: x FP32 [rows, 2] to y, without a manifest."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        name,
        [info("x", TensorProto.FLOAT, ["b", 2])],
        [info("y", TensorProto.FLOAT, ["b", 2])],
    )
    onnx.save(helper.make_model(body), folder / "model.onnx")
    return repository / name
