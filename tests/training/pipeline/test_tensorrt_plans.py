"""Plans of a build: refused before anything is trained where they cannot be made."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from serving.base.tensor import TensorSpec
from serving.engines import EngineOptions, load_engine
from serving.repository.manifest import Normalization
from tests.support import fake_gpu
from tests.support.published import graph, samples
from training.data.samples import ArraySamples, Dataset
from training.errors import ExportError, RecipeError
from training.evaluation.in_engines import verify
from training.evaluation.verification import NetworkSize, PlanOrigin, VariantFile
from training.models.export.deployed import Deployed
from training.pipeline.tensorrt_plans import check_files, check_plans, export_plans
from training.recipes.deliver import Export, TensorRt, Verify

PLANS = Export(variants=("fp32",), tensorrt=TensorRt(variants=("fp32",), usual_batch=4))


def test_machine_without_a_gpu_is_told_what_to_do_instead() -> None:
    with pytest.raises(RecipeError, match=r"no NVIDIA driver here.*`convserve rebuild`"):
        check_plans(PLANS)
    check_plans(Export())


def test_plan_is_made_beside_its_file_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(graph("classification"), tmp_path / "model.onnx")
    with fake_gpu.in_this_process(monkeypatch):
        check_plans(PLANS)
        [plan] = export_plans(PLANS.tensorrt, 8, tmp_path)
        assert plan == {
            "id": "fp32-sm90",
            "source": "fp32",
            "tensorrt_version": "11.4.0",
            "compute_capability": "9.0",
            "driver": "580.65",
        }
        assert "built" in (tmp_path / "model.fp32-sm90.log").read_text()
        engine = load_engine("tensorrt", tmp_path / "model.fp32-sm90.plan", EngineOptions())
        assert engine.infer({"image": samples()})["logits"].shape == (6, 3)
        engine.close()


def test_a_plan_for_few_images_is_verified_on_the_whole_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of `graph`: the mean of each channel."""
    onnx.save(graph("classification", gain=1.0), tmp_path / "model.onnx")
    means = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    split = ArraySamples(samples(), np.arange(6) % 3)
    size = NetworkSize(parameters=0, macs=0)
    with fake_gpu.in_this_process(monkeypatch):
        [plan] = export_plans(TensorRt(variants=("fp32",)), 2, tmp_path)
        fp32 = VariantFile(id="fp32", path=tmp_path / "model.onnx", precision="fp32")
        origin = PlanOrigin.model_validate(plan)
        path = tmp_path / "model.fp32-sm90.plan"
        found = verify(
            Verify(batch_sizes=(1, 2), latency_seconds=0.01),
            Dataset("colours", "", ("red", "green", "blue"), split, split, split),
            "classification",
            Deployed(means, "classification", Normalization(mean=(0, 0, 0), std=(1, 1, 1))),
            [fp32, fp32.model_copy(update={"id": plan["id"], "path": path, "plan": origin})],
            (TensorSpec("image", "UINT8", (-1, 8, 8, 3)),),
            (TensorSpec("logits", "FP32", (-1, 3)),),
            (size, size),
            2,
            tmp_path,
        )
    measured = found.variants[1].evidence["tensorrt"]
    assert (measured.accuracy.value, measured.accuracy.n, measured.agreement) == (1.0, 6, 1.0)
    assert set(measured.latency.milliseconds) == {1, 2}


def test_failed_build_fails_the_stage_with_tensorrts_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(graph("classification"), tmp_path / "model.onnx")
    with (
        fake_gpu.in_this_process(monkeypatch, FAKE_TENSORRT_REFUSE="no kernel"),
        pytest.raises(ExportError, match=r"export\.tensorrt: .*no kernel"),
    ):
        export_plans(PLANS.tensorrt, 8, tmp_path)


def test_file_that_tensorrt_would_refuse_fails_only_where_a_plan_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Of an argmax, straight to bytes.
    onnx.save(graph("segmentation"), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="gives uint8; only a Cast from float"):
        check_files(PLANS, tmp_path)
    check_files(Export(), tmp_path)
    assert "TensorRT would not take it" in caplog.text


def test_recipe_refuses_plans_of_variants_that_are_not_exported() -> None:
    with pytest.raises(ValueError, match=r"tensorrt\.variants holds fp16, which variants does not"):
        Export(variants=("fp32",), tensorrt=TensorRt())
