"""ONNX files and programs of torch.export, as others write them, through a whole build."""

import logging
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from serving.repository.manifest import read_manifest
from tests.support.exported import Foreign, export_foreign
from tests.training.conftest import digits_document, merged
from training.data.sources.digits import load_digits_split
from training.errors import BuildError, RecipeError
from training.pipeline.bound import Bound
from training.pipeline.pipeline import Built, build
from training.pipeline.searching.search import search
from training.recipes import parse_recipe

SIDE = 16


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network that tells digits: random features, and a head that least squares gives it."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
    )  # fmt: skip
    images, labels = load_digits_split("train", seed=0)
    own = Foreign()
    shown = torch.from_numpy(np.stack([cv2.resize(image, (SIDE, SIDE)) for image in images]))
    shown = (shown / 255 - torch.tensor(own.mean)) / torch.tensor(own.std)
    with torch.no_grad():
        features.train()(shown.permute(0, 3, 1, 2))
        found = features.eval()(shown.permute(0, 3, 1, 2))
    found = torch.cat([found, torch.ones(len(found), 1)], 1)
    wanted = nn.functional.one_hot(torch.from_numpy(labels), 10).float() * 10
    ridge = found.T @ found + torch.eye(found.shape[1])
    weights = torch.linalg.solve(ridge, found.T @ wanted)
    head = nn.Linear(found.shape[1] - 1, 10)
    head.weight, head.bias = nn.Parameter(weights[:-1].T.contiguous()), nn.Parameter(weights[-1])
    return nn.Sequential(features, head).eval()


def taken(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe that takes a file; a few variants of a few images, since INT8 is tried below."""
    document = {**digits_document(), "name": "taken", "model": model, "train": "none"}
    for key in ("prune", "quantize", "export"):
        del document[key]
    return merged(document, changes)


def built_of(document: dict[str, Any], folder: Path) -> Built:
    return build(parse_recipe(document), folder / "runs", folder / "repository", tell=True)


def answers(built: Built, file: str = "model.onnx") -> np.ndarray[Any, Any]:
    """Those of a published file to its samples."""
    folder = built.folder.parents[1] / "repository/taken/1"
    images = np.load(folder / "samples.npz")["image"]
    session = onnxruntime.InferenceSession(str(folder / file))
    assert [value.name for value in session.get_inputs()] == ["image"]
    assert [value.name for value in session.get_outputs()] == ["logits"]
    logits: np.ndarray[Any, Any] = session.run(None, {"image": images})[0]
    return logits


def expected(built: Built, network: nn.Module) -> np.ndarray[Any, Any]:
    """The answers of the network that the file was made of."""
    images = np.load(built.folder.parents[1] / "repository/taken/1/samples.npz")["image"]
    own = Foreign()
    shown = (torch.from_numpy(images) / 255 - torch.tensor(own.mean)) / torch.tensor(own.std)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = network(shown.permute(0, 3, 1, 2)).numpy()
    return found


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


BYTES: Any = {"range": 255, "mean": (0, 0, 0), "std": (1, 1, 1)}
CAFFE: Any = {"range": 255, "mean": (103.939, 116.779, 123.68), "std": (1, 1, 1), "bgr": True}
HALVES: Any = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# The interface, opset, fixed batch, and what the recipe says of it. Digits are grey, so that they
# cannot tell the order of colours.
CASES = {
    "opset 11, batch of one": (Foreign(), 11, 1, {}),
    "opset 13, caffe": (Foreign(**CAFFE), 13, None, {"channels": "BGR"}),
    "opset 17, two outputs": (Foreign(features=True), 17, None, {}),
    "opset 17, bytes NHWC, batch of two": (Foreign(**BYTES, nhwc=True, uint8=True), 17, 2, {}),
    "opset 21, probabilities": (Foreign(**HALVES, softmax=True), 21, None, HALVES),
}


@pytest.mark.parametrize("name", CASES)
def test_file_is_published_in_the_deployed_form(
    name: str, network: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind, opset, batch, keys = CASES[name]
    file = export_foreign(network, tmp_path / "net.onnx", SIDE, kind, opset=opset, batch=batch)
    caplog.set_level(logging.INFO, "training")
    built = built_of(taken({"onnx": str(file), "input": keys}), tmp_path)
    wanted, found = expected(built, network), answers(built)
    if kind.softmax:
        wanted, found = softmax(wanted), softmax(found)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    manifest = read_manifest(tmp_path / "repository/taken/1")
    assert manifest is not None
    assert manifest.architecture == "net.onnx"
    # That of the image's own order of colours, whatever the file's is.
    own = np.array([manifest.normalization.mean, manifest.normalization.std])
    real = np.array([kind.mean, kind.std]) / kind.range
    np.testing.assert_allclose(own, real[:, ::-1] if kind.bgr else real, rtol=1e-6)
    said = [line for line in caplog.messages if line.startswith("train: net.onnx: input")]
    assert len(said) == 1


def test_file_is_quantised_halved_and_published_once(network: nn.Module, tmp_path: Path) -> None:
    file = export_foreign(network, tmp_path / "net.onnx", SIDE, batch=1)
    document = taken({"onnx": str(file), "input": {"range": [0, 1], "mean": Foreign().mean}})
    document["model"]["input"]["std"] = Foreign().std
    document["quantize"] = {"calibration_images": 32, "mixed_precision": {"images": 64}}
    document["export"] = {"variants": ["fp32", "fp16", "int8-s8", "int8-u8"]}
    built = built_of(document, tmp_path)
    assert built.verification is not None
    variants = built.verification.variants
    assert {variant.id for variant in variants} == set(document["export"]["variants"])
    assert all(e.agreement > 0.95 for one in variants for e in one.evidence.values())
    manifest = read_manifest(tmp_path / "repository/taken/1")
    assert manifest is not None
    assert {variant.id for variant in manifest.variants} == {"fp32", "fp16", "int8-s8", "int8-u8"}
    parameters = sum(part.numel() for part in network.parameters())
    # Batch norms are folded into the layers before them.
    assert 0.95 * parameters < manifest.parameters < parameters
    assert manifest.gmacs == pytest.approx(built.results["train"]["macs"] / 1e9)
    assert built_of(document, tmp_path).ran == ()
    # The same network, exported anew, is another file.
    export_foreign(network, file, SIDE, batch=2)
    assert built_of(document, tmp_path).ran[0] == "train"


def test_search_tries_the_variants_of_a_file(
    network: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = export_foreign(network, tmp_path / "net.onnx", SIDE, batch=1)
    document = taken({"onnx": str(file), "input": {"range": [0, 1], "mean": Foreign().mean}})
    document["model"]["input"]["std"] = Foreign().std
    document["quantize"] = {"calibration_images": 32, "mixed_precision": {"images": 64}}
    document["export"] = {"variants": ["fp32", "int8-u8"]}
    document["search"] = {"engine": "onnxruntime", "max_ratio": 0, "seconds": 0.01, "trials": 2}
    caplog.set_level(logging.INFO, "training")
    folders = tmp_path / "runs", tmp_path / "repository"
    assert search(parse_recipe(document), Bound("drop", 100), *folders).version == 1
    side = f"{SIDE}x{SIDE}"
    for variant in document["export"]["variants"]:
        assert f"search: net.onnx at {side}, 0 % pruned, {variant}: " in caplog.text


@pytest.mark.parametrize("batch", [pytest.param(None, marks=pytest.mark.slow), 1])
def test_program_of_torch_export_is_published(
    batch: int | None, network: nn.Module, tmp_path: Path
) -> None:
    kind = Foreign(**HALVES, softmax=True, features=True)
    file = export_foreign(network, tmp_path / "net.pt2", SIDE, kind, batch=batch)
    model = {"exported": str(file), "input": {**HALVES}}
    built = built_of(taken(model), tmp_path)
    np.testing.assert_allclose(
        softmax(answers(built)), softmax(expected(built, network)), rtol=1e-3, atol=1e-3
    )


class ColourSegmenter(nn.Module):
    """Tells red and blue squares from what is behind them by their pixels in 0 to 1, RGB."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.answer = answer
        weights = torch.tensor([[0.0, 0, 0], [1, 0, -1], [-1, 0, 1]]) * 20
        self.layer.weight = nn.Parameter(weights.view(3, 3, 1, 1))
        self.layer.bias = nn.Parameter(torch.tensor([10.0, 0, 0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        own = Foreign()
        std, mean = (torch.tensor(v).view(3, 1, 1) for v in (own.std, own.mean))
        found: torch.Tensor = self.layer(images * std + mean)
        if self.answer == "half":
            return nn.functional.avg_pool2d(found, 2)
        if self.answer == "nhwc":
            return found.softmax(1).permute(0, 2, 3, 1)
        return found.argmax(1) if self.answer == "mask" else found[:, 1:2] - 10


@pytest.mark.parametrize(
    ("answer", "said"),
    [("half", "logits"), ("nhwc", "probabilities"), ("mask", "classes"), ("binary", "logits")],
)
def test_segmenter_is_published(
    answer: str, said: str, shapes_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = Foreign(range=255, mean=(0, 0, 0), std=(1, 1, 1), bgr=True)
    file = export_foreign(ColourSegmenter(answer), tmp_path / "net.onnx", 32, kind, batch=1)
    document = {
        "name": "taken",
        "task": "segmentation",
        "binary": answer == "binary",
        "data": {"source": "mask_folder", "root": str(shapes_root)},
        "transform": {"resize": [32, 32]},
        "model": {"onnx": str(file)},
        "train": None,
        "verify": {"max_drop": 0.5, "batch_sizes": [1], "latency_seconds": 0.02, "min_accuracy": 0},
    }
    caplog.set_level(logging.INFO, "training")
    built = built_of(document, tmp_path)
    assert built.verification is not None
    measured = [found for one in built.verification.variants for found in one.evidence.items()]
    line = next(line for line in caplog.messages if line.startswith("train: net.onnx"))
    if answer != "binary":
        # Squares of two colours tell the order of colours, and their edges nothing more.
        assert "NCHW BGR, range [0, 255], mean [0, 0, 0]" in line
        assert all(e.accuracy.value > 0.85 for _, e in measured)
    assert f"answer output: {said}" in line
    assert {engine for engine, _ in measured} >= {"onnxruntime", "openvino"}


class Tokens(nn.Module):
    """A transformer's beginning: a token of its own is joined to those of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.projections = nn.Linear(8, 24)
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], 1)
        rows, count, width = tokens.shape
        heads = self.projections(tokens).reshape(rows, count, 3, 2, width // 2)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = (query @ key.transpose(2, 3)).softmax(3) @ value
        found: torch.Tensor = self.head(seen.transpose(1, 2).reshape(rows, count, width)[:, 0])
        return found


@pytest.mark.parametrize("opset", [17, pytest.param(20, marks=pytest.mark.slow)])
def test_fixed_batch_of_a_transformer_is_freed(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = export_foreign(Tokens().eval(), tmp_path / "net.onnx", SIDE, opset=opset, batch=1)
    build(parse_recipe(taken({"onnx": str(file)})), tmp_path / "runs", tmp_path, until="export")


def test_grey_file_takes_grey_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (torch.zeros(1, 1, SIDE, SIDE),), tmp_path / "net.onnx", dynamo=False,
            opset_version=13,
        )  # fmt: skip
    document = taken({"onnx": str(tmp_path / "net.onnx")})
    assert "FP32[1, 1, 16, 16] has no dimension of 3 for the 3 channels of an image" in refusal(
        document, tmp_path
    )
    document["transform"] = {"resize": [SIDE, SIDE], "channels": 1}
    build(parse_recipe(document), tmp_path / "runs", tmp_path, until="export")


class OneImage(nn.Module):
    """Answers to all images of a batch together."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIDE * SIDE, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head((images - images.mean()).flatten(1))
        return found


class TwoInputs(nn.Module):
    def forward(self, images: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) + more


def refusal(document: dict[str, Any], folder: Path) -> str:
    with pytest.raises(BuildError) as caught:
        build(parse_recipe(document), folder / "runs", folder / "repository", until="export")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_published_is_said_in_one_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = export_foreign(OneImage(), tmp_path / "one.onnx", SIDE, batch=1)
    assert "export the network with a dynamic batch" in refusal(
        taken({"onnx": str(file)}), tmp_path
    )
    head = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 12))
    file = export_foreign(head, tmp_path / "twelve.onnx", SIDE)
    assert "answers with [64, 12], and the data have 10 classes" in refusal(
        taken({"onnx": str(file)}), tmp_path
    )
    said = refusal(taken({"onnx": str(file)}, **{"transform.resize": [32, 32]}), tmp_path)
    assert "input FP32[-1, 3, 16, 16] takes no image of 32x32 as NCHW with 3 channels" in said
    said = refusal(taken({"onnx": str(file), "input": {"name": "images"}}), tmp_path)
    assert "model.input.name: 'images' is none of input FP32" in said
    said = refusal(taken({"onnx": str(file), "output": "logits"}), tmp_path)
    assert "model.output: 'logits' is none of output [64, 12]" in said
    said = refusal(taken({"onnx": str(file), "input": {"mean": [0.5]}}), tmp_path)
    assert "model.input.mean: expected 3 numbers for RGB, got [0.5]" in said
    (tmp_path / "bad.pt2").write_bytes(b"no program")
    said = refusal(taken({"exported": str(tmp_path / "bad.pt2")}), tmp_path)
    assert "cannot be read as a program that torch.export.save wrote" in said
    assert "no such file" in refusal(taken({"onnx": "absent.onnx"}), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            TwoInputs(), (torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3)), tmp_path / "two.onnx",
            dynamo=False, opset_version=17, input_names=["images", "more"],
        )  # fmt: skip
    said = refusal(taken({"onnx": str(tmp_path / "two.onnx")}), tmp_path)
    assert "has 2 inputs (images FP32[1, 3, 16, 16], more FP32[1, 3])" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": digits_document()["train"]}, "train: expected none"),
        ({"prune": {"ratio": 0.3, "train": digits_document()["train"]}}, "prune: model: net.onnx"),
        ({"normalization": {"mean": [0, 0, 0]}}, "normalization: that of a file"),
        ({"model": {"onnx": "net.onnx", "options": {"a": 1}}}, "options: belongs to name or"),
        ({"model": {"onnx": "net.onnx", "pretrained": "a.pth"}}, "pretrained: belongs to name or"),
        ({"model": {"onnx": "net.onnx", "exported": "net.pt2"}}, "expected one of name"),
        ({"model": {"name": "resnet18", "input": {}}}, "input: belongs to onnx or exported"),
    ],
)
def test_recipes_that_ask_too_much_of_a_file_are_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe({**taken({"onnx": "net.onnx"}), **changes})
