"""ONNX Runtime's way to a GPU: the calls run here on its CPU provider, the fallback is real."""

import hashlib
import logging
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.tensor import TensorSpec
from serving.engines import EngineOptions
from serving.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine
from serving.engines.onnxruntime_session import CUDA, TENSORRT, _provider
from tests.support.published import graph, samples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ort-gpu") / "model.onnx"
    onnx.save(graph("classification"), file)
    return file


def on_cpu(model: Path, options: EngineOptions) -> OnnxRuntimeGpuEngine:
    return OnnxRuntimeGpuEngine("test", ["CPUExecutionProvider"], model, options, "cpu")


@pytest.mark.parametrize("graphs", [(), (1, 4)])
def test_bound_batches_answer_right_and_belong_to_the_caller(
    graphs: tuple[int, ...], model: Path
) -> None:
    engine = on_cpu(model, EngineOptions(instances=2, graph_batch_sizes=graphs))
    assert [str(spec) for spec in engine.inputs] == ["image UINT8[-1, 8, 8, 3]"]
    kept = []
    for rows in (1, 4, 3, 1, 4):
        images = np.roll(samples(), rows, axis=0)[:rows]
        buffer = engine.allocate(engine.inputs[0], images.shape)
        buffer[...] = images
        found = engine.infer({"image": buffer})["logits"]
        kept.append((found, found.copy()))
        assert found == pytest.approx(images.mean(axis=(1, 2)) * 10 / 255, rel=1e-5)
    assert all(np.array_equal(found, copy) for found, copy in kept)
    with pytest.raises(EngineError, match="ONNX Runtime"):
        engine.infer({"image": np.zeros((1, 5, 8, 3), np.uint8)})
    engine.close()


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.parametrize("providers", [[CUDA], [TENSORRT, CUDA]])
def test_silent_fallback_is_noticed(providers: list[str], model: Path) -> None:
    with pytest.raises(EngineUnavailable, match=rf"asked for {providers[0]} on GPU 0, .*fell back"):
        OnnxRuntimeGpuEngine("test", providers, model, EngineOptions())


def test_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(EngineUnavailable, match=r"model\.onnx"):
        on_cpu(tmp_path / "model.onnx", EngineOptions())


class FakeSession:
    """A session that says it is on a GPU, runs on the CPU, and keeps the CUDA provider's rules."""

    opened: ClassVar[list["FakeSession"]] = []
    refuses_graphs = False
    loading = threading.Lock()

    def __init__(self, file: str, settings: Any, providers: Any, enable_fallback: int = 1) -> None:
        assert providers == ["CPUExecutionProvider"] or not enable_fallback
        self.providers = providers
        self.real = REAL(file, settings, providers=["CPUExecutionProvider"])
        self.thread = threading.get_ident()
        self.captured: set[str] = set()
        self.sealed = False
        FakeSession.opened.append(self)

    @property
    def options(self) -> dict[str, str]:
        chosen: dict[str, str] = dict(self.providers)[CUDA]
        return chosen

    def get_providers(self) -> list[str]:
        return [p if isinstance(p, str) else p[0] for p in self.providers]

    def run_with_iobinding(self, binding: Any, settings: Any) -> None:
        assert threading.get_ident() == self.thread, "graphs belong to the thread they are made in"
        graph = settings.get_run_config_entry("gpu_graph_id") if settings else "-1"
        if graph != "-1" and graph not in self.captured:
            assert self.options["enable_cuda_graph"] == "1"
            if self.refuses_graphs:
                raise RuntimeError("CUDA: operation not permitted when stream is capturing")
            assert self.loading.acquire(blocking=False), "two captures at once"
            assert not self.sealed, "captured while serving"
            self.captured.add(graph)
            self.loading.release()
        self.real.run_with_iobinding(binding, settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


REAL = onnxruntime.InferenceSession


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "opened", [])
    monkeypatch.setattr(
        FakeSession, "get_provider_graph_assignment_info", lambda self: [], raising=False
    )
    return FakeSession.opened


def on_gpu(sessions: list[FakeSession]) -> list[FakeSession]:
    return [session for session in sessions if session.providers != ["CPUExecutionProvider"]]


def from_threads(engine: OnnxRuntimeGpuEngine, sizes: tuple[int, ...]) -> list[bool]:
    """Whether each of four threads had right answers for all these batch sizes."""
    right: list[bool] = []

    def caller() -> None:
        found = [engine.infer({"image": samples()[:rows]})["logits"] for rows in sizes]
        means = [samples()[:rows].mean(axis=(1, 2)) * 10 / 255 for rows in sizes]
        right.append(
            all(a == pytest.approx(b, rel=1e-5) for a, b in zip(found, means, strict=True))
        )

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return right


def test_graphs_are_captured_at_load_and_replayed_by_the_sessions_own_thread(
    model: Path, sessions: list[FakeSession]
) -> None:
    options = EngineOptions(devices=(0, 1), graph_batch_sizes=(1, 4))
    engine = OnnxRuntimeGpuEngine("test", [CUDA], model, options, "cpu")
    used = on_gpu(sessions)
    assert [session.captured for session in used] == [{"1", "4"}] * 2
    assert len({session.thread for session in used} | {threading.get_ident()}) == 3
    for session in used:
        session.sealed = True
    assert from_threads(engine, (1, 3, 4, 1)) == [True] * 4
    threads = {thread.ident for thread in threading.enumerate()}
    assert {session.thread for session in used} <= threads
    engine.close()
    left = {thread.ident for thread in threading.enumerate()}
    assert not {session.thread for session in used} & left


def test_the_tensorrt_provider_gets_no_graphs(model: Path, sessions: list[FakeSession]) -> None:
    options = EngineOptions(graph_batch_sizes=(1, 4))
    engine = OnnxRuntimeGpuEngine("test", [TENSORRT, CUDA], model, options, "cpu")
    [session] = on_gpu(sessions)
    assert dict(session.providers)[TENSORRT]["trt_cuda_graph_enable"] == "0"
    assert session.options["enable_cuda_graph"] == "0"
    assert from_threads(engine, (1, 4, 1)) == [True] * 4
    assert session.captured == set()
    engine.close()


def test_a_graph_that_cannot_be_captured_is_told_and_done_without(
    model: Path,
    sessions: list[FakeSession],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(FakeSession, "refuses_graphs", True)
    options = EngineOptions(graph_batch_sizes=(1, 4))
    engine = OnnxRuntimeGpuEngine("test", [CUDA], model, options, "cpu")
    [record] = [r for r in caplog.records if r.message == "served without CUDA graphs"]
    assert "not permitted when stream is capturing" in vars(record)["reason"]
    assert on_gpu(sessions)[-1].options["enable_cuda_graph"] == "0"
    assert from_threads(engine, (1, 4, 3)) == [True] * 4
    engine.close()


def test_nodes_that_stay_on_the_cpu_are_told(
    model: Path, sessions: list[FakeSession], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.delattr(FakeSession, "get_provider_graph_assignment_info")
    with caplog.at_level(logging.WARNING):
        OnnxRuntimeGpuEngine("test", [CUDA], model, EngineOptions(), "cpu").close()
    [record] = [r for r in caplog.records if r.message == "nodes run on the CPU"]
    assert any("(" in node for node in vars(record)["nodes"])


def test_tensorrt_provider_is_told_profile_precision_and_a_cache_of_these_weights(
    tmp_path: Path,
) -> None:
    options = EngineOptions(
        precision="fp16", max_batch_size=32, cache_dir=tmp_path, graph_batch_sizes=(1, 32)
    )
    image = TensorSpec("image", "UINT8", (-1, 224, 224, 3))
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights")
    name, chosen = _provider(TENSORRT, 1, file, (image,), options, graphs=False)
    assert name == TENSORRT
    shared = tmp_path / "onnxruntime-tensorrt"
    folder = shared / hashlib.sha256(b"weights").hexdigest()[:32]
    assert folder.is_dir()
    assert chosen == {
        "device_id": "1",
        "trt_cuda_graph_enable": "0",
        "trt_profile_min_shapes": "image:1x224x224x3",
        "trt_profile_opt_shapes": "image:32x224x224x3",
        "trt_profile_max_shapes": "image:32x224x224x3",
        "trt_fp16_enable": "1",
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(shared),
    }


def test_fp32_is_not_tf32_by_accident() -> None:
    _, chosen = _provider(CUDA, 0, Path("model.onnx"), (), EngineOptions(), graphs=False)
    assert chosen == {
        "device_id": "0",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "0",
    }
