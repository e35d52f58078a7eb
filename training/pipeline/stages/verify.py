"""The stage that measures every file in every engine, and judges it by the gate."""

from training.evaluation.in_engines import verify
from training.evaluation.verification import NetworkSize, PlanOrigin, VariantFile, Verification
from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.models.export.deployed import output_specs
from training.models.export.to_onnx import CHECK_ENGINE
from training.models.export.variants import SCHEMES, onnx_file, precision_of
from training.pipeline.environment import measuring_facts
from training.pipeline.stage import Stage


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
    if recipe.model.onnx is not None:
        verification = verification.model_copy(update={"baseline_engine": CHECK_ENGINE})
    return {
        "verification": verification.model_dump(mode="json"),
        "dataset": current.data.description,
        "images": len(current.data.test),
        "classes": list(current.data.classes),
        "ignore_index": current.data.ignore_index,
    }


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
