"""The stages in their order, and what each one builds on. The one file that knows the order."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import torch
import yaml
from torch import nn

from serving.manifest import SAMPLES_FILE, Manifest, Provenance, Variant
from training.checkpoint import load_network, save_network
from training.data import Dataset, fingerprint, load_dataset
from training.deploy import Deployed, input_specs, output_specs
from training.environment import engine_versions, environment
from training.errors import RecipeError
from training.export import check_answers, check_interface, export_onnx
from training.half import to_half
from training.models import MODELS, build_model, count_macs, count_parameters
from training.plans import FP32_FILE, check_files, check_plans, export_plans, onnx_file
from training.prune import prune
from training.publish import publish
from training.quantize import Scheme, choose_calibration, quantize
from training.recipe import Recipe
from training.recipe.train import Train
from training.report import write_report
from training.results import NetworkSize, PlanOrigin, Precision, VariantFile, Verification
from training.stages import Finished, Results, finished, run_stage, stage_key
from training.tables import Rows, variant_rows
from training.train import chosen_precision, fit
from training.verify import PICTURES_FILE, require_pass, verify

log = logging.getLogger(__name__)

NETWORK_FILE = "network.pt"
_SCHEMES: dict[str, Scheme] = {"int8-s8": "s8", "int8-u8": "u8"}
_FLOATS: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16"}
_CHECKED_IMAGES = 16


@dataclass
class Build:
    """One build under way: where things are, and what the stages so far have found out."""

    recipe: Recipe
    folder: Path
    repository: Path
    done: dict[str, Finished] = field(default_factory=dict)

    @cached_property
    def data(self) -> Dataset:
        """Loaded when the first stage that runs asks for it."""
        return load_dataset(self.recipe)

    def stage_folder(self, stage: str) -> Path:
        return self.folder / stage

    @property
    def network_stage(self) -> str:
        """The stage whose network is exported."""
        return "train" if self.recipe.prune is None else "prune"

    @property
    def network_file(self) -> Path:
        return self.stage_folder(self.network_stage) / NETWORK_FILE

    @property
    def size(self) -> tuple[int, int]:
        return self.recipe.transform.size

    def deployed(self, network: nn.Module) -> Deployed:
        return Deployed(network, self.recipe.task, self.recipe.normalization)


@dataclass(frozen=True)
class Stage:
    """`settings` and the keys of the stages in `needs` decide whether `work` runs again."""

    name: str
    needs: Callable[[Build], tuple[str, ...]]
    settings: Callable[[Build], object]
    work: Callable[[Build], Results]
    wanted: Callable[[Build], bool] = lambda build: True


@dataclass(frozen=True)
class Built:
    """How a build ended. `version` is the one published by this build; None where nothing was.

    `rows` are the variants' table, empty where verify has not run.
    """

    folder: Path
    ran: tuple[str, ...]
    kept: tuple[str, ...]
    version: int | None
    rows: Rows
    report: Path


def build(recipe: Recipe, out: Path, repository: Path, until: str | None = None) -> Built:
    """Runs the stages of a recipe up to and including `until`, as far as they are not done yet.

    Leaves everything in OUT/NAME: a folder a stage, recipe.yaml, environment.json, metrics.json,
    report.html. Raises RecipeError, DataError, ExportError and, with the report written,
    VerificationError.
    """
    check_network(recipe)
    check_plans(recipe.export)
    current = Build(recipe, out / recipe.name, repository)
    current.folder.mkdir(parents=True, exist_ok=True)
    _write_inputs(current)
    for stage in STAGES:
        if stage.wanted(current):
            _advance(current, stage)
        if stage.name == "verify" and "verify" in current.done:
            _write_outputs(current)
            require_pass(_verification(current))
        if stage.name == until:
            break
    report = _write_outputs(current)
    published = current.done.get("publish")
    if published is not None and not published.ran:
        log.info("publish: nothing has changed, nothing is published")
    verified = "verify" in current.done
    return Built(
        folder=current.folder,
        ran=tuple(name for name, stage in current.done.items() if stage.ran),
        kept=tuple(name for name, stage in current.done.items() if not stage.ran),
        version=published.results["version"] if published and published.ran else None,
        rows=variant_rows(_verification(current)) if verified else [],
        report=report,
    )


def check_network(recipe: Recipe) -> None:
    """Raises RecipeError where no network has the recipe's name, task and options."""
    name, options = recipe.model.name, recipe.model.options
    try:
        # Without memory for weights: only the structure is tried.
        with torch.device("meta"):
            build_model(name, 2, **options)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"model: {error}") from error
    if MODELS[name].task != recipe.task:
        fitting = [key for key, entry in MODELS.items() if entry.task == recipe.task]
        raise RecipeError(
            f"model.name: {name} does {MODELS[name].task}, the recipe's task is {recipe.task}; "
            f"networks for it: {', '.join(fitting)}"
        )


def _advance(current: Build, stage: Stage) -> None:
    """Takes a stage's former results where its key is the same, else runs it."""
    folder = current.stage_folder(stage.name)
    upstream = {name: current.done[name].key for name in stage.needs(current)}
    key = stage_key(stage.name, stage.settings(current), upstream)
    former = finished(folder, key)
    if former is not None and _still_there(current, stage.name, former):
        log.info("%s: unchanged, kept", stage.name)
        current.done[stage.name] = former
        return
    log.info("%s: started", stage.name)
    current.done[stage.name] = run_stage(folder, key, lambda: stage.work(current))
    log.info("%s: done in %.1f s", stage.name, current.done[stage.name].seconds)


def _still_there(current: Build, stage: str, former: Finished) -> bool:
    """A published version may have been deleted by hand; then it is published again."""
    if stage != "publish":
        return True
    return (current.repository / current.recipe.name / str(former.results["version"])).is_dir()


def _fit(current: Build, stage: str, network: nn.Module, config: Train) -> Results:
    """Trains a network and saves it in the stage's folder."""
    folder = current.stage_folder(stage)
    fitted = fit(
        network,
        config,
        current.data.train,
        current.data.val,
        task=current.recipe.task,
        classes=len(current.data.classes),
        ignore_index=current.data.ignore_index,
        normalization=current.recipe.normalization,
        changes=current.recipe.augment,
        seed=current.recipe.seed,
        folder=folder / "checkpoints",
        title=stage,
    )
    save_network(fitted.network, folder / NETWORK_FILE)
    return {
        "history": fitted.history,
        "precision": fitted.precision,
        "parameters": count_parameters(fitted.network),
        "macs": count_macs(fitted.network, current.size),
        "images": [len(current.data.train), len(current.data.val)],
    }


def _train(current: Build) -> Results:
    torch.manual_seed(current.recipe.seed)
    choice = current.recipe.model
    network = build_model(choice.name, len(current.data.classes), **choice.options)
    return _fit(current, "train", network, current.recipe.train)


def _prune(current: Build) -> Results:
    config = current.recipe.prune
    if config is None:
        raise ValueError("the recipe has no prune section")
    network = load_network(current.stage_folder("train") / NETWORK_FILE)
    share = prune(network, config, current.size)
    return {**_fit(current, "prune", network, config.train), "macs_removed": share}


def _export_fp32(current: Build, path: Path) -> None:
    export_onnx(
        current.deployed(load_network(current.network_file)),
        input_specs(current.size),
        output_specs(current.recipe.task, len(current.data.classes), current.size),
        current.recipe.export.opset,
        path,
    )


def _quantize(current: Build) -> Results:
    config = current.recipe.quantize
    if config is None:
        raise ValueError("the recipe has no quantize section")
    folder = current.stage_folder("quantize")
    float_file = folder / FP32_FILE
    _export_fp32(current, float_file)
    calibration = choose_calibration(
        current.data.train, config.calibration_images, current.recipe.seed
    )
    variants = [variant for variant in current.recipe.export.variants if variant in _SCHEMES]
    for variant in variants:
        path = folder / f"model.{variant}.onnx"
        quantize(float_file, path, _SCHEMES[variant], config.calibrate, calibration)
    return {
        "variants": variants,
        "calibration_sha256": calibration.sha256,
        "calibration_images": len(calibration.images),
    }


def _export(current: Build) -> Results:
    folder = current.stage_folder("export")
    quantized = current.done.get("quantize")
    if quantized is None:
        _export_fp32(current, folder / FP32_FILE)
    else:
        # The very graph that was quantised, so that all variants are one network.
        for name in (FP32_FILE, *(f"model.{v}.onnx" for v in quantized.results["variants"])):
            (folder / name).write_bytes((current.stage_folder("quantize") / name).read_bytes())
    inputs = input_specs(current.size)
    outputs = output_specs(current.recipe.task, len(current.data.classes), current.size)
    if "fp16" in current.recipe.export.variants:
        to_half(folder / FP32_FILE, folder / "model.fp16.onnx")
    files = sorted(folder.glob("*.onnx"))
    for file in files:
        check_interface(file, inputs, outputs)
    check_files(current.recipe.export, folder)
    count = min(_CHECKED_IMAGES, len(current.data.test))
    images, _ = current.data.test.batch(range(count))
    deployed = current.deployed(load_network(current.network_file))
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
        if variant in _SCHEMES:
            sha256 = current.done["quantize"].results["calibration_sha256"]
            path = folder / f"model.{variant}.onnx"
            files.append(
                VariantFile(id=variant, path=path, precision="int8", calibration_sha256=sha256)
            )
        elif variant == "fp16":
            path = folder / onnx_file(variant)
            files.append(VariantFile(id=variant, path=path, precision="fp16"))
        else:
            files.append(
                VariantFile(id=variant, path=folder / FP32_FILE, precision=_FLOATS[variant])
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


def _verify(current: Build) -> Results:
    recipe = current.recipe
    baseline = load_network(current.stage_folder("train") / NETWORK_FILE)
    sizes = [
        NetworkSize(
            parameters=current.done[stage].results["parameters"],
            macs=current.done[stage].results["macs"],
        )
        for stage in ("train", current.network_stage)
    ]
    verification = verify(
        recipe.verify,
        current.data,
        recipe.task,
        current.deployed(baseline),
        _variant_files(current),
        input_specs(current.size),
        output_specs(recipe.task, len(current.data.classes), current.size),
        (sizes[0], sizes[1]),
        current.stage_folder("verify"),
    )
    return {
        "verification": verification.model_dump(mode="json"),
        "dataset": current.data.description,
        "images": len(current.data.test),
        "classes": list(current.data.classes),
        "ignore_index": current.data.ignore_index,
    }


def _verification(current: Build) -> Verification:
    return Verification.model_validate(current.done["verify"].results["verification"])


def _publish(current: Build) -> Results:
    recipe = current.recipe
    verified = current.done["verify"]
    verification = _verification(current)
    folder = current.stage_folder("export")
    chosen = [result for result in verification.variants if result.passed]
    for result in verification.variants:
        if result not in chosen:
            log.warning("publish: %s is left out: it passed in no engine", result.id)
    now = datetime.now(UTC)
    manifest = Manifest(
        task=recipe.task,
        architecture=recipe.model.name,
        measure=verification.measure,
        transform=recipe.transform,
        normalization=recipe.normalization,
        classes=tuple(verified.results["classes"]),
        parameters=verification.network_size.parameters,
        gmacs=verification.network_size.macs / 1e9,
        pruning_ratio=recipe.prune.ratio if recipe.prune is not None else 0.0,
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
        output_specs(recipe.task, len(manifest.classes), current.size),
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


def _dump(build: Build, *sections: str) -> object:
    return build.recipe.model_dump(mode="json", include=set(sections))


STAGES: tuple[Stage, ...] = (
    Stage(
        "train",
        needs=lambda build: (),
        settings=lambda build: [
            _dump(build, "task", "seed", "data", "transform", "normalization", "augment"),
            _dump(build, "model", "train"),
            fingerprint(build.recipe),
            chosen_precision(build.recipe.train.precision),
        ],
        work=_train,
    ),
    Stage(
        "prune",
        needs=lambda build: ("train",),
        settings=lambda build: _dump(build, "prune"),
        work=_prune,
        wanted=lambda build: build.recipe.prune is not None,
    ),
    Stage(
        "quantize",
        needs=lambda build: (build.network_stage,),
        settings=lambda build: _dump(build, "quantize", "export"),
        work=_quantize,
        wanted=lambda build: build.recipe.quantize is not None,
    ),
    Stage(
        "export",
        needs=lambda build: (
            (build.network_stage,) if build.recipe.quantize is None else ("quantize",)
        ),
        settings=lambda build: _dump(build, "export"),
        work=_export,
    ),
    Stage(
        "verify",
        needs=lambda build: ("train", "export"),
        # Evidence holds for these engines on this processor only.
        settings=lambda build: [
            _dump(build, "verify"),
            engine_versions(),
            environment()["machine"],
        ],
        work=_verify,
    ),
    Stage(
        "publish",
        needs=lambda build: ("verify",),
        settings=lambda build: [_dump(build, "name", "publish"), str(build.repository.resolve())],
        work=_publish,
    ),
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)


def _write_inputs(current: Build) -> None:
    document = current.recipe.model_dump(mode="json")
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (current.folder / "recipe.yaml").write_text(text, encoding="utf-8")
    (current.folder / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")


def _write_outputs(current: Build) -> Path:
    """metrics.json and report.html from what is done so far."""
    metrics = {
        name: {"seconds": stage.seconds, **stage.results} for name, stage in current.done.items()
    }
    (current.folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    report = current.folder / "report.html"
    write_report(
        report,
        recipe=current.recipe,
        environment=environment(),
        histories={
            name: stage.results["history"]
            for name, stage in current.done.items()
            if "history" in stage.results
        },
        seconds={name: stage.seconds for name, stage in current.done.items()},
        verification=_verification(current) if "verify" in current.done else None,
        evaluated=current.done["verify"].results if "verify" in current.done else {},
        pictures=current.stage_folder("verify") / PICTURES_FILE,
    )
    return report
