"""What a build leaves in the model repository, and how it gets there."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import training.pipeline.stages.publish
from protos.gen import model_config_pb2 as pb
from serving.base.evaluation import answer_distance
from serving.base.task import TASKS
from serving.engines import EngineOptions, load_engine
from serving.repository.manifest import SAMPLES_FILE, Manifest, read_manifest
from serving.repository.model_config import check_against_engine, read_model_config
from serving.repository.signing.private_copy import SignedVersions
from tests.support.signed import Signer
from training.errors import RecipeError
from training.models.export.deployed import input_specs, output_specs
from training.pipeline.pipeline import Built
from training.pipeline.stages.publish import STAGE, publish
from training.recipes import Recipe
from training.recipes.deliver import Publish


@pytest.fixture(params=["digits", "shapes"])
def model(request: pytest.FixtureRequest, workplace: Path) -> Path:
    """The published model folder of each task."""
    built: Built = request.getfixturevalue(f"{request.param}_built")
    assert built.version == 1
    return workplace / "repository" / f"tiny-{request.param}"


def test_published_folder_is_complete_and_holds_nothing_else(model: Path) -> None:
    manifest = read_manifest(model / "1")
    assert manifest is not None
    files = {variant.file for variant in manifest.variants}
    assert {path.name for path in model.iterdir()} == {"1", "config.pbtxt", "labels.txt"}
    assert {path.name for path in (model / "1").iterdir()} == {
        *files,
        "manifest.json",
        SAMPLES_FILE,
    }
    assert "model.onnx" in files
    for variant in manifest.variants:
        content = (model / "1" / variant.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == variant.sha256
    assert (model / "labels.txt").read_text().splitlines() == list(manifest.classes)
    assert sorted(path.name for path in model.parent.glob(".*")) == []


def test_config_fits_every_file_and_draws_no_warning(model: Path) -> None:
    config = read_model_config(model)
    assert config.warnings == ()
    assert config.platform == "onnxruntime_onnx"
    assert config.label_filenames == {config.outputs[0].name: "labels.txt"}
    proto = text_format.Parse((model / "config.pbtxt").read_text(), pb.ModelConfig())
    assert proto.backend == "onnxruntime"
    assert proto.instance_group[0].kind == pb.ModelInstanceGroup.KIND_AUTO
    for file in (model / "1").glob("*.onnx"):
        engine = load_engine("onnxruntime", file, EngineOptions())
        check_against_engine(config, engine.inputs, engine.outputs, file)
        engine.close()


def test_samples_are_answered_within_the_tolerance(model: Path) -> None:
    manifest = read_manifest(model / "1")
    assert manifest is not None
    output = TASKS[manifest.task].output
    with np.load(model / "1" / SAMPLES_FILE) as samples:
        images, expected = samples["image"], samples[output]
    assert len(images) == 8
    for variant in manifest.variants:
        for name, evidence in variant.evidence.items():
            options = EngineOptions(precision=variant.precision, max_batch_size=8)
            engine = load_engine(name, model / "1" / variant.file, options)
            answers = engine.infer({"image": images})[output]
            engine.close()
            assert answer_distance(expected, answers) <= evidence.samples_tolerance


def test_manifest_tells_where_the_artefact_comes_from(digits_built: Built, workplace: Path) -> None:
    manifest = read_manifest(workplace / "repository" / "tiny-digits" / "1")
    assert manifest is not None
    assert manifest.pruning_ratio == 0.3
    assert manifest.measure == "top1"
    assert manifest.transform.size == (16, 16)
    assert manifest.provenance.split == "test, 364 images"
    by_id = {variant.id: variant for variant in manifest.variants}
    assert by_id["int8-s8"].calibration_sha256 == by_id["int8-u8"].calibration_sha256
    assert by_id["fp32"].calibration_sha256 is None


class Prepared:
    """What publish needs, taken from a version that was published."""

    def __init__(self, source: Path, folder: Path) -> None:
        shutil.copytree(source, folder)
        self.folder = folder
        manifest = read_manifest(folder)
        assert manifest is not None
        self.manifest: Manifest = manifest

    def publish(self, repository: Path, config: Publish) -> int:
        return publish(
            repository,
            "again",
            config,
            input_specs((16, 16)),
            output_specs("classification", 10, (16, 16)),
            self.manifest,
            sorted(self.folder.glob("*.onnx")),
            self.folder / SAMPLES_FILE,
        )


@pytest.fixture
def prepared(digits_built: Built, workplace: Path, tmp_path: Path) -> Prepared:
    return Prepared(workplace / "repository" / "tiny-digits" / "1", tmp_path / "source")


def test_next_version_takes_the_next_number(prepared: Prepared, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    assert prepared.publish(repository, Publish()) == 1
    config = repository / "again" / "config.pbtxt"
    before = config.stat().st_mtime_ns, config.stat().st_ino
    (repository / "again" / "7").mkdir()
    assert prepared.publish(repository, Publish()) == 8
    assert (config.stat().st_mtime_ns, config.stat().st_ino) == before
    assert prepared.publish(repository, Publish(max_batch_size=4)) == 9
    assert read_model_config(repository / "again").max_batch_size == 4


def test_version_appears_signed_under_its_name_and_number(
    prepared: Prepared, tmp_path: Path
) -> None:
    signer = Signer()
    key, _ = signer.write(tmp_path, "key")
    repository = tmp_path / "repository"
    for version in (1, 2):
        assert prepared.publish(repository, Publish(sign_key=key)) == version
        config = read_model_config(repository / "again")
        signed = SignedVersions(lambda: signer.trusted, None)
        with signed.opened(repository / "again", version, config) as copy:
            assert copy.signers == (signer.id,)
            assert not copy.passed_over
            names = {path.name for path in (copy.path / str(version)).iterdir()}
            assert {"model.onnx", "model.int8-u8.onnx", "manifest.json", SAMPLES_FILE} <= names


def test_key_that_cannot_sign_ends_the_build_before_it_trains(
    digits_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = digits_recipe({"publish.sign_key": str(tmp_path / "none.pem")})
    with pytest.raises(RecipeError, match=r"publish.sign_key: .*none.pem: cannot be read: No such"):
        STAGE.check(recipe)


def test_failure_half_way_leaves_no_trace(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    prepared.publish(repository, Publish())
    config = (repository / "again" / "config.pbtxt").read_bytes()

    def disk_full(folder: Path, manifest: Manifest) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(training.pipeline.stages.publish, "write_manifest", disk_full)
    with pytest.raises(OSError, match="no space left"):
        prepared.publish(repository, Publish(max_batch_size=2))
    assert [path.name for path in repository.iterdir()] == ["again"]
    assert sorted(path.name for path in (repository / "again").iterdir()) == [
        "1",
        "config.pbtxt",
        "labels.txt",
    ]
    assert (repository / "again" / "config.pbtxt").read_bytes() == config
