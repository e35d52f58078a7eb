"""Grey images from the recipe to the answers of a server: LeNet as in its paper, masks, people."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from serving.client import VisionClient, mask_of
from serving.engines import EngineOptions, load_engine
from serving.images.postprocess import softmax
from serving.images.preprocess import load_image
from serving.repository.manifest import read_manifest
from tests.support.pictures import encoded
from tests.support.process import ServerProcess
from tests.training.conftest import digits_document, merged, shapes_document
from training.data.sources.digits import load_digits_split
from training.errors import RecipeError
from training.pipeline.pipeline import Built, build
from training.recipes import parse_recipe

SMALL = {
    "export": {"variants": ["fp32"]},
    # A trained network is not what is looked at.
    "verify": {"max_drop": 1, "min_accuracy": 0, "batch_sizes": [1], "latency_seconds": 0.02},
    "transform": {"resize": [32, 32], "channels": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the builds leave runs/ and repository/."""
    return tmp_path_factory.mktemp("grey")


def built(folder: Path, document: dict[str, Any]) -> Built:
    return build(parse_recipe(document), folder / "runs", folder / "repository")


@pytest.fixture(scope="module")
def lenet(folder: Path) -> Built:
    changes = {
        "name": "lenet",
        "transform": SMALL["transform"],
        "model.name": "lenet5",
        "train.optimizer": {"name": "adam", "lr": 0.003},
        "augment": {"shift": 1, "brightness": 0.2, "erase": 0.1},
        "export": {"variants": ["fp32", "fp16", "int8-u8"]},
    }
    return built(folder, merged({**digits_document(), "model": {}}, changes))


@pytest.fixture(scope="module")
def masks(folder: Path, shapes_root: Path) -> Built:
    document = {**shapes_document(shapes_root), **SMALL, "name": "masks"}
    del document["quantize"]
    return built(folder, merged(document, {"train.epochs": 1}))


@pytest.fixture(scope="module")
def people(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Nine people of five grey pictures each, 16 bits deep."""
    root = tmp_path_factory.mktemp("people")
    for person in range(9):
        face = np.random.default_rng(person).integers(40, 200, (4, 4))
        rng = np.random.default_rng(100 + person)
        (root / f"p{person}").mkdir()
        for index in range(5):
            pixels = np.kron(face, np.ones((5, 5))) + rng.normal(0, 20, (20, 20))
            deep = (np.clip(pixels, 0, 255) * 256).astype(np.uint16)
            Image.fromarray(deep).save(root / f"p{person}" / f"{index}.png")
    document = {
        **SMALL,
        "name": "people",
        "task": "embedding",
        "embedding_size": 8,
        "data": {"source": "identity_folder", "root": str(root)},
        "model": {"name": "lenet5"},
        "train": {
            "epochs": 1,
            "batch_size": 8,
            "loss": {"name": "arcface", "margin": 0.2, "scale": 16},
            "optimizer": {"name": "adamw", "lr": 0.002},
            "keep": "last",
        },
    }
    return built(folder, document)


@pytest.fixture(scope="module")
def server(
    folder: Path,
    lenet: Built,
    masks: Built,
    people: Built,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    flags = ("--variant", "fp32", "--engine", "onnxruntime")
    cache = tmp_path_factory.mktemp("served") / "cache"
    running = ServerProcess(folder / "repository", *flags, cache=cache).wait_ready()
    yield running
    running.kill()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[VisionClient]:
    with VisionClient(server.url, retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def answer(folder: Path, lenet: Built) -> Callable[[Any], Any]:
    """The network's own scores for uint8 [N, 32, 32, 1]."""
    engine = load_engine(
        "onnxruntime", folder / "repository" / "lenet" / "1" / "model.onnx", EngineOptions()
    )
    return lambda images: softmax(engine.infer({"image": images})["logits"])


def command(server: ServerProcess, *arguments: str | Path) -> Any:
    """The JSON that a command prints."""
    words = [sys.executable, "-m", "convserve", *map(str, arguments), "--url", server.url, "--json"]
    return json.loads(subprocess.run(words, capture_output=True, check=True).stdout)


def test_build_publishes_every_variant_of_one_channel(folder: Path, lenet: Built) -> None:
    version = folder / "repository" / "lenet" / "1"
    manifest = read_manifest(version)
    assert manifest is not None
    assert manifest.transform.channels == 1
    assert manifest.normalization.mean == (0.449,)
    assert [variant.id for variant in manifest.variants] == ["fp32", "fp16", "int8-u8"]
    assert manifest.pruning_ratio > 0
    assert all(x.accuracy.value > 0.5 for v in manifest.variants for x in v.evidence.values())
    with np.load(version / "samples.npz") as samples:
        assert samples["image"].shape[1:] == (32, 32, 1)


def test_report_shows_grey_as_grey(lenet: Built, masks: Built, people: Built) -> None:
    for run in (lenet, masks, people):
        assert "Some of the training images, as the network sees them" in run.report.read_text()


def test_file_and_pixels_get_the_networks_own_answer(
    client: VisionClient, answer: Callable[[Any], Any]
) -> None:
    images, _ = load_digits_split("test")
    digit = images[3]
    expected = answer(digit[None, :, :, :1])[0]
    for sent in (encoded(digit, "PNG"), encoded(digit[:, :, 0], "PNG"), digit, digit[:, :, 0],
                 digit[:, :, :1]):  # fmt: skip
        labels = client.classify("lenet", sent, top_k=10).results[0].labels
        scores = [x.score for x in sorted(labels, key=lambda x: x.index)]
        assert scores == pytest.approx(expected.tolist(), abs=1e-6)


def test_photograph_of_colours_is_converted_and_resized_as_in_training(
    folder: Path, client: VisionClient, answer: Callable[[Any], Any]
) -> None:
    manifest = read_manifest(folder / "repository" / "lenet" / "1")
    assert manifest is not None
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    for data in (encoded(pixels, "JPEG"), encoded(pixels, "PNG")):
        expected = answer(load_image(data, manifest.transform).pixels[None])[0]
        labels = client.classify("lenet", data, top_k=10).results[0].labels
        scores = [x.score for x in sorted(labels, key=lambda x: x.index)]
        assert scores == pytest.approx(expected.tolist(), abs=1e-6)
    png, raw = (client.classify("lenet", x).results[0] for x in (encoded(pixels, "PNG"), pixels))
    assert png.labels == raw.labels


def test_open_inference_protocol_takes_the_tensor_and_files(
    server: ServerProcess, answer: Callable[[Any], Any]
) -> None:
    images, _ = load_digits_split("test")
    grey = np.ascontiguousarray(images[:2, :, :, :1])
    with triton.InferenceServerClient(server.url) as client:
        (shape,) = [x.shape for x in client.get_model_metadata("lenet").inputs]
        assert shape == [-1, 32, 32, 1]
        tensor = triton.InferInput("image", grey.shape, "UINT8")
        tensor.set_data_from_numpy(grey)
        files = triton.InferInput("encoded", [2, 1], "BYTES")
        files.set_data_from_numpy(np.array([[encoded(x, "PNG")] for x in images[:2]], object))
        for sent in (tensor, files):
            logits = client.infer("lenet", [sent]).as_numpy("logits")
            assert np.allclose(softmax(logits), answer(grey), atol=1e-6)
        colours = triton.InferInput("image", images[:2].shape, "UINT8")
        colours.set_data_from_numpy(images[:2])
        with pytest.raises(triton.InferenceServerException, match=r"\[-?1?, ?32, 32, 1\].*32, 3\]"):
            client.infer("lenet", [colours])


def test_masks_of_grey_networks_lie_over_the_picture_that_was_sent(
    server: ServerProcess, client: VisionClient, shapes_root: Path, tmp_path: Path
) -> None:
    picture = shapes_root / "images" / "00.png"
    found = command(server, "predict", picture, "--model", "masks", "--save", tmp_path)
    assert (found[0]["height"], found[0]["width"]) == (40, 40)
    with Image.open(found[0]["overlay"]) as overlay, Image.open(picture) as sent:
        shown, pixels = np.asarray(overlay), np.asarray(sent)
    mask = mask_of(client.segment("masks", picture).results[0])
    assert np.array_equal(shown[mask == 0], pixels[mask == 0])
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    for raw in (pixels, grey):
        result = client.segment("masks", raw, overlay=True).results[0]
        assert np.array_equal(mask_of(result), mask)
        assert result.overlay_png.startswith(b"\x89PNG")


def test_commands_measure_grey_models(
    server: ServerProcess, shapes_root: Path, tmp_path: Path
) -> None:
    images, labels = load_digits_split("test")
    for index in range(20):
        (tmp_path / str(labels[index])).mkdir(exist_ok=True)
        file = tmp_path / str(labels[index]) / f"{index}.png"
        Image.fromarray(images[index, :, :, 0]).save(file)
    report = command(server, "evaluate", "--model", "lenet", "--data", tmp_path)
    assert (report["n"], report["failed"]) == (20, {})
    report = command(server, "evaluate", "--model", "masks", "--data", shapes_root)
    assert (report["n"], report["failed"]) == (40, {})


def test_embeddings_of_sixteen_bits_and_of_their_high_bytes_are_one(client: VisionClient) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (20, 20)).astype(np.uint16)
    deep, flat = encoded(levels, "PNG"), (levels >> 8).astype(np.uint8)
    first, second = (client.embed("people", x).results[0].values for x in (deep, flat))
    assert list(first) == list(second)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)


def test_teacher_of_other_channels_is_refused_before_anything_is_trained(
    lenet: Built, folder: Path
) -> None:
    document = merged(
        {**digits_document(), "model": {}},
        {
            "name": "student",
            "model.name": "lenet5",
            "transform": {"resize": [32, 32]},
            "distill": {"teacher": {"run": str(lenet.folder)}},
        },
    )
    with pytest.raises(RecipeError, match="takes images of 1 channels, the student of 3"):
        built(folder, document)
    assert not (folder / "runs" / "student" / "train").exists()
