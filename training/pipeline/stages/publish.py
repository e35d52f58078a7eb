"""The stage that puts a verified build into the model repository, in one step."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import text_format

from protos.gen import model_config_pb2 as pb
from serving.base.files import sha256
from serving.base.tensor import TensorSpec
from serving.repository.manifest import (
    SAMPLES_FILE,
    Manifest,
    Provenance,
    Variant,
    write_manifest,
)
from serving.repository.model_config import CONFIG_FILE, data_type, read_model_config
from serving.repository.onnx_file import external_files
from serving.repository.signing.keys import BadKey, read_private_key
from serving.repository.signing.statement import sign_version
from training.errors import RecipeError
from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.models.export.deployed import output_specs
from training.pipeline.stage import Stage
from training.pipeline.stages.verify import verification_of
from training.recipes import Recipe
from training.recipes.deliver import Publish
from training.recipes.tasks import TRAINED_TASKS

log = logging.getLogger(__name__)

LABELS_FILE = "labels.txt"

# Made elsewhere in the repository and renamed; a name that no server takes for a model or version.
_STAGING_PREFIX = ".publish-"


def work(current: Build) -> Results:
    recipe = current.recipe
    verified = current.done["verify"]
    verification = verification_of(current)
    folder = current.stage_folder("export")
    chosen = [result for result in verification.variants if result.passed]
    for result in verification.variants:
        if result not in chosen:
            log.warning("publish: %s is left out: it passed in no engine", result.id)
    now = datetime.now(UTC)
    classes = verified.results["classes"]
    manifest = Manifest(
        task=recipe.task,
        architecture=recipe.model.architecture,
        measure=verification.measure,
        transform=recipe.transform,
        normalization=current.normalization,
        classes=tuple(classes) if TRAINED_TASKS[recipe.task].classes_served else (),
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
            data_sha256=current.done["data"].results.get("sha256", ""),
        ),
        variants=tuple(
            Variant(
                id=result.id,
                file=result.file,
                sha256=result.sha256,
                data={name: sha256(folder / name) for name in _weights(folder / result.file)},
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
        current.inputs,
        output_specs(recipe.task, recipe.channels(len(classes)), current.size),
        manifest,
        [
            folder / name
            for file in dict.fromkeys(result.file for result in chosen)
            for name in (file, *_weights(folder / file))
        ],
        current.stage_folder("verify") / SAMPLES_FILE,
    )
    log.info("publish: %s version %d in %s", recipe.name, version, current.repository)
    return {"version": version, "variants": [result.id for result in chosen]}


def _weights(file: Path) -> Sequence[str]:
    """The files beside a file that hold its weights. What a build writes has none, so far."""
    return tuple(external_files(file)) if file.suffix == ".onnx" else ()


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of the recipe's sections with their defaults filled in: comments and order do not
    count."""
    content = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def publish(
    repository: Path,
    name: str,
    config: Publish,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    manifest: Manifest,
    files: Sequence[Path],
    samples: Path,
) -> int:
    """Writes the next version of model `name` and gives its number.

    `files` are the variants' files, and those of their weights, under the names that the manifest
    gives them. The version folder, with its signature, appears by one rename; for a new model that
    is the whole model folder. Where config.pbtxt changes, it and labels.txt are replaced, each in
    one step, right after the folder has appeared.
    """
    assert manifest.task is not None, "a build has one"
    repository.mkdir(parents=True, exist_ok=True)
    model_folder = repository / name
    version = _next_version(model_folder)
    with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=repository) as staging:
        staged_model = Path(staging) / name
        staged_version = staged_model / str(version)
        staged_version.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, staged_version / file.name)
        shutil.copyfile(samples, staged_version / SAMPLES_FILE)
        write_manifest(staged_version, manifest)
        _write_config(
            staged_model, name, manifest.task, bool(manifest.classes), config, inputs, outputs
        )
        if manifest.classes:
            labels = "".join(f"{label}\n" for label in manifest.classes)
            (staged_model / LABELS_FILE).write_text(labels, encoding="utf-8")
        # Read back with the server's own eyes before anybody sees it.
        read_model_config(staged_model)
        if config.sign_key is not None:
            signer = sign_version(staged_version, _key(config.sign_key))
            log.info("publish: signed by key %s", signer)
        if not model_folder.exists():
            staged_model.rename(model_folder)
            return version
        staged_version.rename(model_folder / str(version))
        for file_name in (LABELS_FILE, CONFIG_FILE):
            if (staged_model / file_name).exists():
                _replace(staged_model / file_name, model_folder / file_name)
    return version


def _key(path: Path) -> Ed25519PrivateKey:
    """Raises RecipeError."""
    try:
        return read_private_key(path)
    except BadKey as error:
        raise RecipeError(f"publish.sign_key: {error}") from error


def _check(recipe: Recipe) -> None:
    """A key that cannot be used is told before hours of training."""
    if recipe.publish.sign_key is not None:
        _key(recipe.publish.sign_key)


def _next_version(model_folder: Path) -> int:
    if not model_folder.is_dir():
        return 1
    numbers = [int(path.name) for path in model_folder.iterdir() if path.name.isdecimal()]
    return max(numbers, default=0) + 1


def _replace(new: Path, old: Path) -> None:
    """Leaves a file alone that is the same, so that no server sees a change."""
    if not old.exists() or _sha256(new) != _sha256(old):
        os.replace(new, old)  # noqa: PTH105 - the one call that is documented to be atomic


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_config(
    folder: Path,
    name: str,
    task: str,
    labelled: bool,
    config: Publish,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> None:
    proto = pb.ModelConfig(
        name=name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=config.max_batch_size,
        input=[
            pb.ModelInput(
                name=spec.name,
                data_type=pb.DataType.Name(data_type(spec.datatype)),
                format=pb.ModelInput.FORMAT_NHWC,
                dims=spec.shape[1:],
            )
            for spec in inputs
        ],
        # The first output is the one that holds classes, where there are any.
        output=[
            pb.ModelOutput(
                name=spec.name,
                data_type=pb.DataType.Name(data_type(spec.datatype)),
                dims=spec.shape[1:],
                label_filename=LABELS_FILE if index == 0 and labelled else "",
            )
            for index, spec in enumerate(outputs)
        ],
        instance_group=[
            # On a GPU where the server finds one.
            pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_AUTO, count=config.instances)
        ],
        dynamic_batching=pb.ModelDynamicBatching(
            max_queue_delay_microseconds=config.max_queue_delay_microseconds
        ),
    )
    proto.parameters["task"].string_value = task
    (folder / CONFIG_FILE).write_text(text_format.MessageToString(proto), encoding="utf-8")


def _still_there(current: Build, former: Results) -> bool:
    """A version that was deleted by hand is published again."""
    return (current.repository / current.recipe.name / str(former["version"])).is_dir()


STAGE = Stage(
    "publish",
    # Everything is read by now but `search`, which says how a recipe was found.
    sections=("name", "publish"),
    facts=lambda build: str(build.repository.resolve()),
    work=work,
    check=_check,
    still_there=_still_there,
)
