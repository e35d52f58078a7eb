"""Building and running plans against a TensorRT that enforces the real one's rules."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from serving.base.errors import EngineError, EngineUnavailable
from serving.engines import ENGINES, EngineOptions, PlanProfile, load_engine, unavailable_reason
from tests.support import fake_gpu
from tests.support.published import graph, samples


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with fake_gpu.in_this_process(monkeypatch):
        yield


@pytest.fixture
def runtime() -> ModuleType:
    from cuda.bindings import runtime

    module: ModuleType = runtime
    return module


def build(folder: Path, largest: int = 8, **options: Any) -> Path:
    from serving.engines.tensorrt.build import build_plan

    onnx_file = folder / "model.onnx"
    onnx.save(graph("classification"), onnx_file)
    build_plan(onnx_file, folder / "model.plan", PlanProfile(1, largest, largest), **options)
    return folder / "model.plan"


def right(images: np.ndarray[Any, Any]) -> Any:
    return pytest.approx(images.mean(axis=(1, 2)) * 10 / 255, rel=1e-5)


def test_tensorrt_can_run_here() -> None:
    assert unavailable_reason("tensorrt") is None


def test_plan_answers_for_every_batch_size(tmp_path: Path) -> None:
    engine = load_engine("tensorrt", build(tmp_path), EngineOptions(max_batch_size=8))
    assert [str(spec) for spec in engine.inputs] == ["image UINT8[-1, 8, 8, 3]"]
    assert [str(spec) for spec in engine.outputs] == ["logits FP32[-1, 3]"]
    for rows in (1, 3, 6, 2):
        images = samples()[:rows]
        assert engine.infer({"image": images})["logits"] == right(images)
    engine.close()


@pytest.mark.parametrize("graphs", [(), (1, 2, 4, 16)])
def test_batches_of_several_threads_and_gpus_do_not_mix(
    graphs: tuple[int, ...], tmp_path: Path
) -> None:
    options = EngineOptions(instances=4, devices=(0, 0, 1, 1), graph_batch_sizes=graphs)
    engine = load_engine("tensorrt", build(tmp_path), options)
    images = samples()
    wrong: list[int] = []

    def caller(index: int) -> None:
        buffer = engine.allocate(engine.inputs[0], (2, 8, 8, 3))
        for rows in (1, 2) * 10:
            buffer[:rows] = images[index : index + rows]
            if engine.infer({"image": buffer[:rows]})["logits"] != right(
                images[index : index + rows]
            ):
                wrong.append(index)

    threads = [threading.Thread(target=caller, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    engine.close()


def test_a_size_whose_graph_fails_is_served_without_and_told(
    tmp_path: Path,
    runtime: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan, end = build(tmp_path), runtime.cudaStreamEndCapture
    answers = iter([(runtime.cudaError_t.cudaErrorStreamCaptureUnsupported, 0)])

    def once(stream: int) -> Any:
        refused = next(answers, None)
        captured = end(stream)
        return refused or captured

    monkeypatch.setattr(runtime, "cudaStreamEndCapture", once)
    engine = load_engine("tensorrt", plan, EngineOptions(graph_batch_sizes=(2, 4)))
    [record] = [r for r in caplog.records if "without a CUDA graph" in r.message]
    assert vars(record)["batch_size"] == 2
    assert "cudaErrorStreamCaptureUnsupported" in vars(record)["reason"]
    for rows in (2, 4, 3, 4, 2):
        assert engine.infer({"image": samples()[:rows]})["logits"] == right(samples()[:rows])
    engine.close()


def test_answers_belong_to_the_caller(tmp_path: Path) -> None:
    engine = load_engine("tensorrt", build(tmp_path), EngineOptions())
    first = engine.infer({"image": samples()[:2]})["logits"]
    kept = first.copy()
    engine.infer({"image": samples()[3:5]})
    assert np.array_equal(first, kept)
    engine.close()


def test_everything_on_the_gpu_is_given_back(tmp_path: Path, runtime: ModuleType) -> None:
    options = EngineOptions(devices=(0, 1), graph_batch_sizes=(1, 8))
    engine = load_engine("tensorrt", build(tmp_path), options)
    buffer = engine.allocate(engine.inputs[0], (8, 8, 8, 3))
    view = buffer[:2]
    del buffer
    view[...] = samples()[:2]
    assert engine.infer({"image": view})["logits"] == right(samples()[:2])
    engine.close()
    del view, engine
    assert not (runtime.blocks)
    assert not (runtime.streams)
    assert not (runtime.graphs)


def test_a_batch_beyond_the_profile_is_an_engine_error_and_the_next_one_runs(
    tmp_path: Path,
) -> None:
    engine = load_engine("tensorrt", build(tmp_path, largest=4), EngineOptions())
    with pytest.raises(
        EngineError, match=r"\[5, 8, 8, 3\]; the plan was built for .* to \[4, 8, 8, 3\]"
    ):
        engine.infer({"image": samples()[:5]})
    with pytest.raises(EngineError, match=r"expected image UINT8\[-1, 8, 8, 3\]"):
        engine.infer({"image": np.zeros((1, 5, 8, 3), np.uint8)})
    with pytest.raises(EngineError, match="got float64"):
        engine.infer({"image": np.zeros((1, 8, 8, 3))})
    assert engine.infer({"image": samples()[:4]})["logits"] == right(samples()[:4])
    engine.close()


def test_a_failed_call_names_itself_and_leaves_nothing_under_way(
    tmp_path: Path, runtime: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt

    engine = load_engine("tensorrt", build(tmp_path), EngineOptions())
    with monkeypatch.context() as patch:
        patch.setattr(tensorrt.IExecutionContext, "execute_async_v3", lambda *_: False)
        with pytest.raises(EngineError, match="execute_async_v3 failed"):
            engine.infer({"image": samples()[:2]})
    assert not any(runtime.streams.values())
    with monkeypatch.context() as patch:
        failed = (runtime.cudaError_t.cudaErrorInvalidValue,)
        patch.setattr(runtime, "cudaMemcpyAsync", lambda *_: failed)
        with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
            engine.infer({"image": samples()[:2]})
    assert engine.infer({"image": samples()[:2]})["logits"] == right(samples()[:2])
    engine.close()


def test_no_context_and_no_such_gpu_are_refused_and_leave_nothing(
    tmp_path: Path, runtime: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt

    plan = build(tmp_path)
    with pytest.raises(EngineUnavailable, match="cudaErrorInvalidDevice"):
        load_engine("tensorrt", plan, EngineOptions(devices=(7,)))
    monkeypatch.setattr(tensorrt.ICudaEngine, "create_execution_context", lambda *_: None)
    with pytest.raises(EngineUnavailable, match="no execution context"):
        load_engine("tensorrt", plan, EngineOptions())
    assert not runtime.blocks
    assert not runtime.streams


def test_plan_of_another_version_and_a_broken_one_are_refused_with_tensorrts_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = build(tmp_path)
    (tmp_path / "broken.plan").write_bytes(b"not a plan")
    with pytest.raises(EngineUnavailable, match="magic tag"):
        load_engine("tensorrt", tmp_path / "broken.plan", EngineOptions())
    for version, reason in (
        ("10.13.3", r"expecting version 10\.13\.3, got 11\.4\.0"),
        ("12.0.1", r"12\.0\.1 is not known here"),
    ):
        with (
            fake_gpu.in_this_process(monkeypatch, FAKE_TENSORRT_VERSION=version),
            pytest.raises(EngineUnavailable, match=reason),
        ):
            load_engine("tensorrt", plan, EngineOptions())


def test_timings_are_kept_and_those_of_another_version_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "timing.cache"
    build(tmp_path, timing_cache=cache, workspace_mib=64)
    assert b"11.4.0" in cache.read_bytes()
    build(tmp_path, timing_cache=cache)
    with fake_gpu.in_this_process(monkeypatch, FAKE_TENSORRT_VERSION="10.13.3"):
        build(tmp_path, timing_cache=cache)
    assert b"10.13.3" in cache.read_bytes()


def test_failed_build_says_why_and_leaves_its_log_and_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        fake_gpu.in_this_process(monkeypatch, FAKE_TENSORRT_REFUSE="no kernel for /conv1"),
        pytest.raises(EngineUnavailable, match="cannot build it: no kernel for /conv1"),
    ):
        build(tmp_path, build_log=tmp_path / "build.log")
    assert "error: no kernel for /conv1" in (tmp_path / "build.log").read_text()
    assert not (tmp_path / "model.plan").exists()


def test_a_file_of_one_batch_size_makes_a_plan_of_that_size(tmp_path: Path) -> None:
    from serving.engines.tensorrt.build import build_plan

    model = graph("classification")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "model.onnx")
    build_plan(tmp_path / "model.onnx", tmp_path / "model.plan", PlanProfile(1, 8, 8))
    engine = load_engine("tensorrt", tmp_path / "model.plan", EngineOptions())
    assert engine.infer({"image": samples()[:2]})["logits"] == right(samples()[:2])
    with pytest.raises(EngineError, match=r"expected image UINT8\[2, 8, 8, 3\]"):
        engine.infer({"image": samples()[:3]})
    engine.close()


def test_no_network_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    monkeypatch.setattr(tensorrt.Builder, "create_network", lambda *_: None)
    with pytest.raises(EngineUnavailable, match="gives no network"):
        build(tmp_path)


def test_file_that_does_not_parse_names_the_node(tmp_path: Path) -> None:
    from serving.engines.tensorrt.build import build_plan

    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(EngineUnavailable, match=r"node 'first' \(Unknown\): not a network"):
        build_plan(tmp_path / "model.onnx", tmp_path / "model.plan", PlanProfile(1, 1, 1))


def test_only_plans_go_to_tensorrt() -> None:
    assert ENGINES["tensorrt"].suffixes == (".plan",)


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_bindings_without_their_libraries_are_a_reason_and_no_crash(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text(f"raise {error}('libnvinfer.so.11: not found')\n")
    # Undone before the fixture's own changes of the path are.
    with fake_gpu.in_this_process(monkeypatch), monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert "libnvinfer.so.11: not found" in (unavailable_reason("tensorrt") or "")
        with pytest.raises(EngineUnavailable, match="cannot be imported"):
            load_engine("tensorrt", tmp_path / "model.plan", EngineOptions())
        patch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
        assert "libnvinfer.so.11: not found" in (unavailable_reason("onnxruntime-tensorrt") or "")
