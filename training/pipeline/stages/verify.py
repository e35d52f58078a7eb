"""The stage that measures every file in every engine, and judges it by the gate."""

import logging
from collections.abc import Mapping
from typing import Any

from training.evaluation.in_engines import timed_in_engines, verify
from training.evaluation.validation_trial import doubt_about
from training.evaluation.verification import NetworkSize, PlanOrigin, VariantFile, Verification
from training.fitting.build import Build, Network, export_fp32
from training.fitting.stage_folder import Results
from training.models.export.deployed import output_specs
from training.models.export.to_onnx import CHECK_ENGINE
from training.models.export.variants import SCHEMES, onnx_file, precision_of
from training.pipeline.environment import measuring_facts
from training.pipeline.stage import Stage

log = logging.getLogger(__name__)


def work(current: Build) -> Results:
    recipe = current.recipe
    baseline = current.network(current.trained_file)
    sizes = [
        NetworkSize(
            parameters=current.done[stage].results["parameters"],
            macs=current.done[stage].results["macs"],
        )
        for stage in (current.trained_stage, current.network_stage)
    ]
    verification = verify(
        recipe.verify,
        current.data,
        recipe.task,
        current.served(baseline),
        _variant_files(current),
        current.inputs,
        output_specs(recipe.task, current.channels, current.size),
        (sizes[0], sizes[1]),
        recipe.publish.max_batch_size,
        current.stage_folder("verify"),
    )
    changes = _baseline_timed(current, baseline, verification)
    if recipe.model.onnx is not None:
        changes["baseline_engine"] = CHECK_ENGINE
    verification = verification.model_copy(update=changes)
    if doubt := doubt_about(current, baseline, verification.baseline):
        log.warning("verify: %s", doubt)
    return {
        "verification": verification.model_dump(mode="json"),
        "dataset": current.data.description,
        "images": len(current.data.test),
        "classes": list(current.data.classes),
        "ignore_index": current.data.ignore_index,
        "notes": {"validation images": doubt} if doubt else {},
    }


def _baseline_timed(
    current: Build, baseline: Network, verification: Verification
) -> dict[str, Any]:
    """Latency and size of the network before pruning, as fields of the findings. Where nothing was
    pruned, they are those of the FP32 file."""
    fp32 = verification.variants[0]
    latency: Mapping[str, Mapping[int, float]]
    if current.recipe.prune is None:
        latency = {name: one.latency.milliseconds for name, one in fp32.evidence.items()}
        return {"baseline_latency": latency, "baseline_bytes": fp32.size_bytes}
    path = current.stage_folder("verify") / "unpruned.onnx"
    export_fp32(current, baseline, path)
    latency = timed_in_engines(
        VariantFile(id="the network before pruning", path=path, precision="fp32"),
        fp32.evidence,
        current.inputs,
        current.recipe.verify,
        current.recipe.publish.max_batch_size,
    )
    size = path.stat().st_size
    path.unlink()
    return {"baseline_latency": latency, "baseline_bytes": size}


def verification_of(current: Build) -> Verification:
    """The findings of the stage, which is done."""
    return Verification.model_validate(current.done["verify"].results["verification"])


def _variant_files(current: Build) -> list[VariantFile]:
    """The files of all variants and plans; FP32 first, with which the others are compared."""
    folder = current.stage_folder("export")
    wanted = sorted(current.recipe.export.variants, key=lambda variant: variant != "fp32")
    files = []
    for variant in wanted:
        int8 = variant in SCHEMES
        calibration = current.done["quantize"].results["calibration_sha256"] if int8 else None
        files.append(
            VariantFile(
                id=variant,
                path=folder / onnx_file(variant),
                precision=precision_of(variant),
                calibration_sha256=calibration,
            )
        )
    sources = {file.id: file for file in files}
    for plan in current.done["export"].results["plans"]:
        changes = {
            "id": plan["id"],
            "path": folder / f"model.{plan['id']}.plan",
            "plan": PlanOrigin.model_validate(plan),
        }
        files.append(sources[plan["source"]].model_copy(update=changes))
    return files


STAGE = Stage(
    "verify",
    sections=("verify", "publish.max_batch_size"),
    # Evidence holds for these engines on this machine only.
    facts=lambda build: measuring_facts(),
    work=work,
)
