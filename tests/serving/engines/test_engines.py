"""Both runtimes behind the one interface, on a real file."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.machine.cpu import quota_cores
from serving.engines import EngineOptions, cpu_features, load_engine
from serving.engines.measure import measure_latency
from serving.engines.openvino_cpu import _wait_for_all
from tests.support.identity import publish_identity
from tests.support.published import CPU_ENGINES as ALL
from tests.support.published import graph, samples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("engines") / "model.onnx"
    onnx.save(graph("classification"), file)
    return file


@pytest.mark.parametrize("name", ALL)
def test_engine_describes_its_tensors(name: str, model: Path) -> None:
    engine = load_engine(name, model, EngineOptions())
    assert engine.name == name
    assert [str(spec) for spec in engine.inputs] == ["image UINT8[-1, 8, 8, 3]"]
    assert [str(spec) for spec in engine.outputs] == ["logits FP32[-1, 3]"]
    engine.close()


@pytest.mark.parametrize("name", ALL)
def test_zeros_around_an_image_are_zeros_to_the_pooling_behind(name: str, tmp_path: Path) -> None:
    """As in BiT's stem; ONNX Runtime's own optimiser would pad with the least value."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Neg", ["pixels"], ["dark"]),
        helper.make_node("Pad", ["dark", "pads", "zero"], ["framed"]),
        helper.make_node("MaxPool", ["framed"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    fixed = [
        onnx.numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"),
        onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 1, 2, 2])
    pooled = helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, ["n", 1, 2, 2])
    made = helper.make_graph(nodes, "framed", [image], [pooled], fixed)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=9), tmp_path / "model.onnx")
    engine = load_engine(name, tmp_path / "model.onnx", EngineOptions())
    answer = engine.infer({"image": np.full((1, 1, 2, 2), 9, np.uint8)})["pooled"].copy()
    engine.close()
    assert not answer.any()


_INTERRUPTED = """
import gc, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from serving.engines import EngineOptions, load_engine

def forget(engines):
    engines.pop().close()
    gc.collect()

engines = [load_engine(sys.argv[1], Path(sys.argv[2]), EngineOptions())]
engines[0].infer({"image": np.zeros((1, 8, 8, 3), np.uint8)})
with ThreadPoolExecutor(1) as thread:
    thread.submit(forget, engines).result()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("name", ALL)
def test_an_interrupt_after_an_engine_was_closed_is_an_exception(name: str, model: Path) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, name, str(model)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [1, 3, 6])
def test_answers_are_right_for_every_batch_size(name: str, rows: int, model: Path) -> None:
    engine = load_engine(name, model, EngineOptions())
    images = samples()[:rows]
    logits = engine.infer({"image": images})["logits"]
    assert logits == pytest.approx(images.mean(axis=(1, 2)) * 10 / 255, rel=1e-5)
    engine.close()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_every_row_gets_its_answer_from_several_threads(
    name: str, threads: int, model: Path
) -> None:
    engine = load_engine(name, model, EngineOptions(threads=threads, max_batch_size=32))
    for rows in [*range(1, 33), 1, 32, 7]:
        images = np.random.default_rng(rows).integers(0, 256, (rows, 8, 8, 3), np.uint8)
        logits = engine.infer({"image": images})["logits"]
        assert logits == pytest.approx(images.mean(axis=(1, 2)) * 10 / 255, rel=1e-5)
    engine.close()


def test_overlapping_batches_get_their_own_answers(model: Path) -> None:
    engine = load_engine("openvino", model, EngineOptions(threads=2, max_batch_size=32))
    assert engine.overlap_rows == 8

    def run(seed: int) -> None:
        random = np.random.default_rng(seed)
        for rows in (1, 32, 7, 2, 13) * 6:
            images = random.integers(0, 256, (rows, 8, 8, 3), np.uint8)
            logits = engine.infer({"image": images})["logits"]
            assert logits == pytest.approx(images.mean(axis=(1, 2)) * 10 / 255, rel=1e-5)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, range(2)))
    engine.close()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [1, 2, 3, 32])
def test_answers_belong_to_the_caller(name: str, rows: int, model: Path) -> None:
    engine = load_engine(name, model, EngineOptions(threads=2, max_batch_size=32))
    images = np.random.default_rng(0).integers(0, 256, (2, rows, 8, 8, 3), np.uint8)
    first = engine.infer({"image": images[0]})["logits"]
    kept = first.copy()
    engine.infer({"image": images[1]})
    assert np.array_equal(first, kept)
    engine.close()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("threads", [1, 2])
def test_empty_batch_has_no_answers(name: str, threads: int, model: Path) -> None:
    engine = load_engine(name, model, EngineOptions(threads=threads, max_batch_size=32))
    assert engine.infer({"image": np.zeros((0, 8, 8, 3), np.uint8)})["logits"].shape == (0, 3)
    engine.close()


def test_failed_chunk_is_reported_when_all_have_ended() -> None:
    ended = []

    class Request:
        def __init__(self, failure: Exception | None) -> None:
            self.failure = failure

        def wait(self) -> None:
            ended.append(self)
            if self.failure is not None:
                raise self.failure

    requests = [Request(None), Request(MemoryError("none left")), Request(None)]
    with pytest.raises(MemoryError, match="none left"):
        _wait_for_all(requests)
    assert len(ended) == len(requests)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [1, 20])
def test_calls_from_as_many_callers_as_instances_do_not_mix(
    name: str, rows: int, model: Path
) -> None:
    engine = load_engine(name, model, EngineOptions(instances=2, threads=2, max_batch_size=32))
    wrong: list[int] = []

    def caller(index: int) -> None:
        images = np.repeat(samples()[index : index + 1], rows, axis=0)
        expected = images.mean(axis=(1, 2)) * 10 / 255
        answers = (engine.infer({"image": images})["logits"] for _ in range(100))
        wrong.extend(index for logits in answers if not np.allclose(logits, expected, rtol=1e-4))

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    engine.close()


@pytest.mark.parametrize("name", ALL)
def test_broken_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a network")
    with pytest.raises(EngineUnavailable, match=r"model\.onnx"):
        load_engine(name, file, EngineOptions())


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("onnxruntime", "BF16", "in_BF16: element type tensor(bfloat16) is not served"),
        ("openvino", "BYTES", "in_BYTES: element type string is not served"),
    ],
)
def test_datatype_that_an_engine_does_not_serve_is_named(
    name: str, kind: str, said: str, tmp_path: Path
) -> None:
    publish_identity(tmp_path, "identity", (kind,))
    with pytest.raises(EngineUnavailable) as refusal:
        load_engine(name, tmp_path / "identity" / "1" / "model.onnx", EngineOptions())
    assert said in str(refusal.value)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [1, 32])
def test_input_of_a_wrong_shape_is_an_engine_error(name: str, rows: int, model: Path) -> None:
    engine = load_engine(name, model, EngineOptions(threads=2, max_batch_size=32))
    with pytest.raises(EngineError):
        engine.infer({"image": np.zeros((rows, 5, 8, 3), np.uint8)})
    right = engine.infer({"image": np.full((rows, 8, 8, 3), 51, np.uint8)})["logits"]
    assert right == pytest.approx(np.full((rows, 3), 2.0))
    engine.close()


@pytest.mark.skipif(
    not {"avx512_bf16", "amx_bf16"} & set(cpu_features()), reason="this CPU has no bf16"
)
def test_bf16_differs_from_fp32_but_little(model: Path) -> None:
    """The hint is set explicitly: FP32 must not become bf16 by the runtime's default."""
    images = samples()
    exact = load_engine("openvino", model, EngineOptions(precision="fp32")).infer({"image": images})
    assert exact["logits"] == pytest.approx(images.mean(axis=(1, 2)) * 10 / 255, rel=1e-5)
    rough = load_engine("openvino", model, EngineOptions(precision="bf16")).infer({"image": images})
    assert rough["logits"] == pytest.approx(exact["logits"], rel=0.02)


def test_missing_runtime_is_named_with_what_installs_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match=r"convserve\[cpu\]"):
        load_engine("openvino", model, EngineOptions())


def test_latency_is_measured_for_every_size(model: Path) -> None:
    engine = load_engine("onnxruntime", model, EngineOptions())
    latency = measure_latency(engine, engine.inputs, [1, 4], seconds=0.01)
    assert list(latency) == [1, 4]
    assert all(0 < value < 1000 for value in latency.values())
    engine.close()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, sys.maxsize),
        ({}, sys.maxsize),
    ],
)
def test_cpu_quota_of_a_container_is_read(
    files: dict[str, str], cores: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert quota_cores(tmp_path) == cores
