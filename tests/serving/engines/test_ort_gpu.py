"""ONNX Runtime's way to a GPU: the calls run here on its CPU provider, the fallback is real."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from serving.engines import EngineOptions
from serving.engines.ort_gpu import CUDA, TENSORRT, OnnxRuntimeGpuEngine, _provider
from serving.errors import EngineError, EngineUnavailable
from serving.tensor import TensorSpec
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


def test_tensorrt_provider_is_told_profile_precision_cache_and_graphs(tmp_path: Path) -> None:
    options = EngineOptions(
        precision="fp16", max_batch_size=32, cache_dir=tmp_path, graph_batch_sizes=(1, 32)
    )
    image = TensorSpec("image", "UINT8", (-1, 224, 224, 3))
    name, chosen = _provider(TENSORRT, 1, (image,), options)
    assert name == TENSORRT
    folder = tmp_path / "onnxruntime-tensorrt"
    assert folder.is_dir()
    assert chosen == {
        "device_id": "1",
        "trt_cuda_graph_enable": "1",
        "trt_profile_min_shapes": "image:1x224x224x3",
        "trt_profile_opt_shapes": "image:32x224x224x3",
        "trt_profile_max_shapes": "image:32x224x224x3",
        "trt_fp16_enable": "1",
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def test_fp32_is_not_tf32_by_accident() -> None:
    _, chosen = _provider(CUDA, 0, (), EngineOptions())
    assert chosen == {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "0"}
