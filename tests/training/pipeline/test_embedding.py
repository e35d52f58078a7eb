"""From folders of people to a served network that knows people whom it never saw."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from serving.base.evaluation import identification
from serving.repository.manifest import Manifest, read_manifest
from tests.support.process import ServerProcess
from training.data.samples import ArraySamples
from training.errors import RecipeError
from training.evaluation.network_answers import answers_of
from training.fitting.epoch_metrics import build_metric
from training.models.networks import check_network
from training.pipeline.pipeline import Built
from training.recipes import load_recipe

PEOPLE, PICTURES, SIDE = 9, 6, 16
TESTED = ("p6", "p7", "p8")


def write_person(folder: Path, number: int) -> None:
    """A person is a random pattern of coarse squares; pictures differ by light and noise."""
    face = np.random.default_rng(number).integers(40, 200, (4, 4, 3))
    rng = np.random.default_rng(100 + number)
    folder.mkdir(parents=True)
    for index in range(PICTURES):
        pixels = np.kron(face, np.ones((5, 5, 1))) + rng.normal(0, 25, (20, 20, 3))
        pixels = np.clip(pixels * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    for number in range(PEOPLE):
        write_person(root / f"p{number}", number)
    return root


@pytest.fixture(scope="module")
def document(people: Path) -> dict[str, Any]:
    return {
        "name": "tiny-people",
        "task": "embedding",
        "embedding_size": 16,
        "data": {
            "source": "identity_folder",
            "root": str(people),
            "test_identities": ["p6..p8"],
            "val_identities": ["p4", "p5"],
        },
        "transform": {"resize": [SIDE, SIDE]},
        "model": {"name": "resnet20_cifar"},
        "train": {
            "epochs": 3,
            "batch_size": 8,
            "loss": {"name": "arcface", "margin": 0.2, "scale": 16},
            "optimizer": {"name": "adamw", "lr": 0.002},
            "keep": "last",
        },
        "quantize": {"calibration_images": 16},
        "export": {"variants": ["fp32", "int8-u8"]},
        "verify": {"max_drop": 0.5, "batch_sizes": [1], "latency_seconds": 0.02},
    }


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    found = read_manifest(repository / "tiny-people" / "1")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tested(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The people of the test split in a folder of their own."""
    root = tmp_path_factory.mktemp("tested")
    for name in TESTED:
        (root / name).symlink_to(people / name)
    return root


def test_manifest_holds_the_measures_of_people_that_were_not_trained_on(
    manifest: Manifest,
) -> None:
    assert (manifest.task, manifest.measure, manifest.classes) == ("embedding", "rank1", ())
    assert [variant.id for variant in manifest.variants] == ["fp32", "int8-u8"]
    for variant in manifest.variants:
        for evidence in variant.evidence.values():
            # The first picture of each of three people is the gallery, the others are the probes.
            assert evidence.accuracy.n == evidence.drop.n == len(TESTED) * (PICTURES - 1)
            assert set(evidence.measures) == {
                "tar@far=0.01", "eer", "auc", "rank5", "rank10", "cosine",
            }  # fmt: skip
    fp32 = manifest.variants[0].evidence["onnxruntime"]
    assert fp32.measures["cosine"] == pytest.approx(1, abs=1e-5)
    assert (fp32.agreement, fp32.drop.value) == (1.0, 0.0)


def test_validation_measures_rank1_and_no_loss_of_strangers(built: Built) -> None:
    history = json.loads((built.folder / "metrics.json").read_text())["train"]["history"]
    assert len(history) == 3
    assert all(0 <= row["val_rank1"] <= 1 and "val_loss" not in row for row in history)


def test_config_promises_an_embedding_without_labels(repository: Path) -> None:
    text = (repository / "tiny-people" / "config.pbtxt").read_text()
    assert 'name: "embedding"' in text
    assert "label_filename" not in text
    assert not (repository / "tiny-people" / "labels.txt").exists()


def test_report_shows_pairs_and_matches(built: Built) -> None:
    text = built.report.read_text()
    assert "tar@far=0.01" in text
    assert '<h2 id="pairs">' in text
    assert "nearest is" in text
    assert "ROC of accepting pairs, area" in text
    assert f"of {len(TESTED) * (PICTURES - 1)} probes, with 95 % intervals" in text


def test_curves_of_pairs_and_probes_are_kept(built: Built) -> None:
    results = json.loads((built.folder / "metrics.json").read_text())["verify"]
    found = results["verification"]["identification"]
    variant, engine = results["verification"]["pictured"]
    [pictured] = [one for one in results["verification"]["variants"] if one["id"] == variant]
    evidence = pictured["evidence"][engine]
    # As many ranks as there are people in the gallery; the right one is the last at worst.
    rates = [rate["value"] for rate in found["match_rates"]]
    assert len(rates) == len(TESTED)
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (evidence["accuracy"]["value"], 1.0)
    assert found["auc"] == evidence["measures"]["auc"]
    accepted = found["true_accept_rates"]
    assert len(accepted) == len(found["false_accept_rates"]) == 41
    assert accepted == sorted(accepted)
    assert accepted[-1] == 1.0


def test_served_embedding_gives_the_measured_figures(
    repository: Path,
    tested: Path,
    manifest: Manifest,
    start_server: Callable[..., ServerProcess],
    ask: Callable[..., Any],
) -> None:
    server = start_server(repository, "--engine", "onnxruntime", "--variant", "fp32").wait_ready()
    report = ask(server, "evaluate", "--data", tested)
    evidence = manifest.variants[0].evidence["onnxruntime"]
    assert report["rank1"]["value"] == pytest.approx(evidence.accuracy.value)
    assert report["eer"] == pytest.approx(evidence.measures["eer"], abs=1e-6)
    assert report["identities"] == len(TESTED)
    first, same, other = (tested / name for name in ("p6/0.png", "p6/1.png", "p7/0.png"))
    answers = ask(server, "predict", first, same, other)
    assert np.linalg.norm(answers[0]["embedding"]) == pytest.approx(1, abs=1e-4)
    assert answers[0]["similarity"] == {"to": str(first), "cosine": pytest.approx(1, abs=1e-4)}
    assert -1 <= answers[2]["similarity"]["cosine"] <= 1


def points(angles: list[float]) -> np.ndarray:
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_answers_name_the_nearest_of_the_gallery(tmp_path: Path) -> None:
    embeddings = points([0, 3, 90, 40, 180, 175])
    people = np.array([5, 5, 7, 7, 9, 9])
    samples = ArraySamples(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(3, 3), people)
    answers = answers_of(
        lambda images: {"embedding": embeddings[images[:, 0, 0, 0]]},
        samples,
        "embedding",
        2,
        None,
        tmp_path,
    )
    assert isinstance(answers.predictions, np.ndarray)
    assert answers.predictions.tolist() == [5, 5, 9]
    assert answers.scores.tolist() == [1, 0, 1]
    assert answers.embedded is not None
    assert answers.embedded.probes.tolist() == [1, 3, 5]
    assert answers.embedded.nearest.tolist() == [0, 0, 4]


def test_validation_metric_is_the_evaluations_rank1() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(8), 5)
    raw = (rng.normal(size=(8, 6))[people] + rng.normal(0, 1.2, (40, 6))).astype(np.float32)
    metric = build_metric("embedding", 3, None)
    for rows in (slice(0, 17), slice(17, 40)):
        metric.update(torch.from_numpy(raw[rows]), torch.from_numpy(people[rows]))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    expected = identification(unit, people, (1,))[1].value
    assert 0.2 < expected < 1
    assert float(metric.compute()) == pytest.approx(expected)


FACES = Path(__file__).parents[3] / "benchmarks" / "training" / "faces.yaml"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.loss={name: cross_entropy}", "which arcface, cosface and triplet are made of"),
        ("train.loss={name: dice}", "train.loss: dice compares answers with classes"),
        ("train.mixup_alpha=0.2", "blend the classes of whole images"),
        ("embedding_size=1", "embedding_size: input should be greater than or equal to 2"),
        ("binary=true", "binary: unknown key"),
        ("data.source=image_folder", "data.source: input should be 'identity_folder'"),
        ("data.val_identities=[s01]", "val_by: pictures takes pictures of all of them"),
    ],
)
def test_recipe_refuses_what_an_embedding_cannot_be(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(FACES, [override])
    assert expected in str(error.value)


def test_segmentation_network_gives_no_embedding() -> None:
    with pytest.raises(RecipeError, match="unet_slim does segmentation, the recipe's task is emb"):
        check_network(load_recipe(FACES, ["model.name=unet_slim"]))
