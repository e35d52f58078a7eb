"""The stages that make a network ready to be served: export, verify, publish."""

import hashlib
import json
import logging
from datetime import UTC, datetime

from serving.repository.manifest import SAMPLES_FILE, Manifest, Provenance, Variant
from training.compress.fp16 import to_half
from training.evaluation.in_engines import verify
from training.evaluation.verification import NetworkSize, PlanOrigin, VariantFile, Verification
from training.fitting.build import Build, export_fp32, network_channels
from training.fitting.stage_folder import Results
from training.models.checkpoint import load_network
from training.models.export.deployed import input_specs, output_specs
from training.models.export.to_onnx import check_answers, check_interface
from training.models.export.variants import FP32_FILE, SCHEMES, onnx_file, precision_of
from training.pipeline.stages.publish import publish
from training.pipeline.tensorrt_plans import check_files, export_plans
from training.recipes import Recipe

log = logging.getLogger(__name__)

DATA_FILE = "data.json"
_CHECKED_IMAGES = 16


def export_work(current: Build) -> Results:
    folder = current.stage_folder("export")
    quantized = current.done.get("quantize")
    if quantized is None:
        export_fp32(current, load_network(current.network_file), folder / FP32_FILE)
    else:
        # The very graph that was quantised, so that all variants are one network.
        for name in (FP32_FILE, *map(onnx_file, quantized.results["variants"])):
            (folder / name).write_bytes((current.stage_folder("quantize") / name).read_bytes())
    inputs = input_specs(current.size)
    outputs = output_specs(current.recipe.task, current.channels, current.size)
    if "fp16" in current.recipe.export.variants:
        to_half(folder / FP32_FILE, folder / onnx_file("fp16"))
    files = sorted(folder.glob("*.onnx"))
    for file in files:
        check_interface(file, inputs, outputs)
    check_files(current.recipe.export, folder)
    count = min(_CHECKED_IMAGES, len(current.data.test))
    images, _ = current.data.test.batch(range(count))
    deployed = current.deployed(load_network(current.exported_file))
    check_answers(folder / FP32_FILE, deployed, outputs, images)
    return {
        "files": [file.name for file in files],
        "checked_images": count,
        "plans": export_plans(
            current.recipe.export.tensorrt, current.recipe.publish.max_batch_size, folder
        ),
    }


def _variant_files(current: Build) -> list[VariantFile]:
    """FP32 first: it is what the others are compared with."""
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


def verify_work(current: Build) -> Results:
    recipe = current.recipe
    baseline = load_network(current.trained_file)
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
        current.deployed(baseline),
        _variant_files(current),
        input_specs(current.size),
        output_specs(recipe.task, current.channels, current.size),
        (sizes[0], sizes[1]),
        recipe.publish.max_batch_size,
        current.stage_folder("verify"),
    )
    return {
        "verification": verification.model_dump(mode="json"),
        "dataset": current.data.description,
        "images": len(current.data.test),
        "classes": list(current.data.classes),
        "ignore_index": current.data.ignore_index,
    }


def verification_of(current: Build) -> Verification:
    return Verification.model_validate(current.done["verify"].results["verification"])


def publish_work(current: Build) -> Results:
    recipe = current.recipe
    verified = current.done["verify"]
    verification = verification_of(current)
    folder = current.stage_folder("export")
    chosen = [result for result in verification.variants if result.passed]
    for result in verification.variants:
        if result not in chosen:
            log.warning("publish: %s is left out: it passed in no engine", result.id)
    now = datetime.now(UTC)
    classes = len(verified.results["classes"])
    manifest = Manifest(
        task=recipe.task,
        architecture=recipe.model.name,
        measure=verification.measure,
        transform=recipe.transform,
        normalization=recipe.normalization,
        # An embedding knows people that it was not trained on; those that it was, nobody asks for.
        classes=() if recipe.task == "embedding" else tuple(verified.results["classes"]),
        parameters=verification.network_size.parameters,
        gmacs=verification.network_size.macs / 1e9,
        pruning_ratio=current.done["prune"].results["ratio"] if recipe.prune is not None else 0.0,
        provenance=Provenance(
            recipe=recipe.name,
            recipe_sha256=recipe_sha256(recipe),
            run=f"{recipe.name}/{verified.key[:12]}",
            dataset=verified.results["dataset"],
            split=f"test, {verified.results['images']} images",
            created=now.isoformat(timespec="seconds"),
        ),
        variants=tuple(
            Variant(
                id=result.id,
                file=result.file,
                sha256=result.sha256,
                precision=result.precision,
                evidence=result.evidence,
                calibration_sha256=result.calibration_sha256,
                **(result.plan.model_dump() if result.plan is not None else {}),
            )
            for result in chosen
        ),
    )
    version = publish(
        current.repository,
        recipe.name,
        recipe.publish,
        input_specs(current.size),
        output_specs(recipe.task, network_channels(recipe, classes), current.size),
        manifest,
        [folder / name for name in dict.fromkeys(result.file for result in chosen)],
        current.stage_folder("verify") / SAMPLES_FILE,
    )
    log.info("publish: %s version %d in %s", recipe.name, version, current.repository)
    return {"version": version, "variants": [result.id for result in chosen]}


def recipe_sha256(recipe: Recipe) -> str:
    """Of the recipe with its defaults filled in, so that comments and order do not count."""
    content = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
