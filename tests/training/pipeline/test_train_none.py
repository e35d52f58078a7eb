"""`train: none`: a network is compressed, verified and published as its weights make it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from serving.repository.manifest import read_manifest
from tests.training.conftest import digits_document, merged
from training.data.sources.digits import load_digits_split
from training.errors import DataError, RecipeError, VerificationError
from training.models import build_model
from training.models.checkpoint import load_network
from training.pipeline.pipeline import Built, build, check_recipe
from training.recipes import parse_recipe

# The digits that the folder of photographs shows, of the ten that the network knows.
SHOWN = (7, 2, 5)


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, for three digits: their order by name is not the network's."""
    root = tmp_path_factory.mktemp("shown")
    for split in ("train", "val", "test"):
        images, labels = load_digits_split(split, seed=0)
        for digit in SHOWN:
            folder = root / split / f"digit {10 - digit}"
            folder.mkdir(parents=True)
            for index, image in enumerate(images[labels == digit][:40]):
                Image.fromarray(image).save(folder / f"{index}.png")
    return root


@pytest.fixture
def names(tmp_path: Path) -> Path:
    file = tmp_path / "labels.txt"
    file.write_text("".join(f"digit {10 - digit}\n" for digit in range(10)))
    return file


@pytest.fixture
def weights(digits_built: Built, tmp_path: Path) -> Path:
    file = tmp_path / "weights.pth"
    torch.save(load_network(digits_built.folder / "train/network.safetensors").state_dict(), file)
    return file


def untrained(weights: Path, **changes: Any) -> dict[str, Any]:
    document = merged(digits_document(), {"model.pretrained": str(weights), "name": "taken"})
    return {**document, "train": "none", "prune": None, **changes}


def test_network_is_published_as_its_weights_make_it(
    weights: Path, digits_built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = parse_recipe(untrained(weights))
    built = build(recipe, tmp_path / "runs", tmp_path / "repository")
    assert built.version == 1
    assert built.results["train"]["history"] == []
    former = load_network(digits_built.folder / "train/network.safetensors").state_dict()
    taken = load_network(built.folder / "train/network.safetensors").state_dict()
    assert all(torch.equal(former[key], taken[key]) for key in former)
    assert built.verification is not None
    variants = {variant.id for variant in built.verification.variants}
    assert variants == {"fp32", "int8-s8", "int8-u8"}
    caplog.set_level(logging.INFO)
    again = build(recipe, tmp_path / "runs", tmp_path / "repository")
    assert again.ran == ()


def test_pruning_fine_tunes_by_its_own_section(weights: Path, tmp_path: Path) -> None:
    prune = {
        "ratio": 0.3,
        "round_to": 8,
        "train": {"epochs": 1, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.02}},
    }
    recipe = parse_recipe(untrained(weights, prune=prune, quantize=None, export={}))
    built = build(recipe, tmp_path / "runs", tmp_path / "repository", until="prune")
    assert built.results["prune"]["parameters"] < built.results["train"]["parameters"]
    assert len(built.results["prune"]["history"]) == 1


def test_null_says_the_same_as_none(weights: Path) -> None:
    assert parse_recipe(untrained(weights)) == parse_recipe({**untrained(weights), "train": None})


def test_train_must_be_there() -> None:
    document = digits_document()
    del document["train"]
    with pytest.raises(RecipeError, match="train: missing"):
        parse_recipe(document)


def test_network_without_weights_is_refused() -> None:
    document = merged(untrained(Path("x")), {"model.pretrained": None})
    with pytest.raises(RecipeError, match="train: none needs a trained network"):
        check_recipe(parse_recipe(document), None)


def test_head_of_another_number_of_classes_is_refused_with_both(
    weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    data = {"source": "image_folder", "root": str(digits_folder)}
    recipe = parse_recipe(untrained(weights, data=data))
    with pytest.raises(RecipeError, match=r"answers with 10 values, and the data have 3 classes"):
        build(recipe, tmp_path / "runs", tmp_path / "repository")


def test_data_may_show_a_part_of_the_networks_classes(
    weights: Path, digits_folder: Path, names: Path, tmp_path: Path
) -> None:
    data = {"source": "image_folder", "root": str(digits_folder)}
    document = merged(untrained(weights, data=data), {"model.classes": str(names)})
    built = build(parse_recipe(document), tmp_path / "runs", tmp_path / "repository")
    manifest = read_manifest(tmp_path / "repository/taken/1")
    assert manifest is not None
    assert manifest.classes == tuple(f"digit {10 - digit}" for digit in range(10))
    assert built.verification is not None
    gates = [e.gate for one in built.verification.variants for e in one.evidence.values()]
    assert all(gate.passed for gate in gates)
    findings = json.loads((built.folder / "data.json").read_text())
    assert sorted(findings["classes"]) == sorted(f"digit {10 - digit}" for digit in SHOWN)
    # Another list is another build.
    names.write_text("".join(f"digit {digit}\n" for digit in range(11)))
    with pytest.raises(RecipeError, match="answers with 10 values, and the data have 11"):
        build(parse_recipe(document), tmp_path / "runs", tmp_path / "repository")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["digit 3", "digit 8", "digit_5"], r"1 of 3 it does not: 'digit 5' \(did you mean"),
        (["digit 3", "digit 8", "digit 5", "digit 5"], r"'digit 5' \(2 times\)"),
        (["digit 3", "", "digit 5"], "line 2: empty"),
    ],
)
def test_classes_that_are_not_named_are_told(
    weights: Path, digits_folder: Path, names: Path, tmp_path: Path, lines: list[str], said: str
) -> None:
    names.write_text("\n".join(lines))
    data = {"source": "image_folder", "root": str(digits_folder)}
    document = merged(untrained(weights, data=data), {"model.classes": str(names)})
    with pytest.raises(DataError, match=said):
        build(parse_recipe(document), tmp_path / "runs", tmp_path / "repository")


def test_gate_at_chance_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_model("resnet20_cifar", 10).state_dict(), tmp_path / "random.pth")
    recipe = parse_recipe(untrained(tmp_path / "random.pth"))
    with pytest.raises(VerificationError, match="not above chance"):
        build(recipe, tmp_path / "runs", tmp_path / "repository")
