"""What the commands print of a server that means harm: its names and reasons neither steer the
terminal nor pass for lines of ours, and answers that do not fit end in one line."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc, vision_pb2_grpc
from protos.gen import vision_pb2 as pb
from serving.cli import evaluate, models, predict

# Clears the screen, sets the title, rings, turns the direction of writing, begins another line.
EVIL = "a\x1b[2J\x1b]0;pwned\x07\x9b31m\u202egpj\u2066\r\nconvserve: all is well\u2028\x00\x7f"
LONG = EVIL + "x" * 100_000


class Evil(
    grpc_service_pb2_grpc.GRPCInferenceServiceServicer, vision_pb2_grpc.VisionServiceServicer
):
    """Answers what a test sets; its names are evil."""

    def __init__(self) -> None:
        self.task = "classification"
        self.latency = '{"1": 0.5}'
        self.accuracy = '{"value": 0.5}'
        self.refuses = False
        self.classified = pb.Classification(labels=[pb.Label(index=0, name=LONG, score=0.5)])
        self.segmented = pb.Segmentation(
            height=2, width=3, rle=pb.RunLengths(runs=[0, 6]),
            areas=[pb.ClassArea(index=0, name=EVIL, fraction=1.0, confidence=1.0)],
        )  # fmt: skip
        self.embedded = [pb.Embedding(values=[1.0, 0.0])]

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        index = oip.RepositoryIndexResponse()
        index.models.add(name=EVIL, version=EVIL, state="UNAVAILABLE", reason=LONG)
        index.models.add(name="good", version="1", state="READY")
        return index

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.refuses:
            context.abort(grpc.StatusCode.NOT_FOUND, EVIL)
        response = oip.ModelConfigResponse()
        parameters = {
            "task": self.task, "classes": "red\nblue", "variant": EVIL, "engine": EVIL,
            "measure": EVIL, "accuracy": self.accuracy,
            "latency_ms": self.latency,
        }  # fmt: skip
        for key, value in parameters.items():
            response.config.parameters[key].string_value = value
        return response

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        served = pb.Served(variant=EVIL)
        return pb.ClassifyResponse(served=served, results=[self.classified])

    def Segment(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.SegmentResponse(served=pb.Served(variant=EVIL), results=[self.segmented])

    def Embed(self, request: Any, context: Any) -> Any:  # noqa: N802
        result = self.embedded.pop(0) if len(self.embedded) > 1 else self.embedded[0]
        return pb.EmbedResponse(served=pb.Served(variant=EVIL), results=[result])


@pytest.fixture
def evil() -> Iterator[tuple[Evil, str]]:
    service = Evil()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
        vision_pb2_grpc.add_VisionServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield service, f"127.0.0.1:{port}"
        server.stop(None)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    for name in ("red", "blue"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (3, 2)).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data" / "red" / "0.png"


def said(app: typer.Typer, *arguments: str | Path, status: int = 0) -> str:
    """What a command printed: nothing that a terminal obeys, and no line that it did not mean."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    text = result.output
    assert result.exit_code == status, text
    assert not isinstance(result.exception, Exception), result.exception
    assert text.replace("\n", "").isprintable(), ascii(text)
    assert "Traceback" not in text
    return text


def test_models_of_a_server_are_listed_without_control_characters(evil: tuple[Evil, str]) -> None:
    text = said(models.app, "models", "--url", evil[1])
    assert "good" in text
    assert len(text) < 20_000
    listed = json.loads(said(models.app, "models", "--url", evil[1], "--json"))
    assert listed[0]["name"] == EVIL
    assert listed[0]["reason"] == LONG


def test_labels_of_a_server_are_printed_without_control_characters(
    evil: tuple[Evil, str], image: Path
) -> None:
    here = (image, "--model", "good", "--url", evil[1])
    text = said(predict.app, "predict", *here)
    assert "gpj" in text
    assert len(text) < 5000
    assert "\nconvserve: all is well" not in text
    [found] = json.loads(said(predict.app, "predict", *here, "--json"))
    assert found["labels"][0]["name"] == LONG


def test_areas_of_a_server_are_printed_without_control_characters(
    evil: tuple[Evil, str], image: Path
) -> None:
    evil[0].task = "segmentation"
    assert "gpj" in said(predict.app, "predict", image, "--model", "good", "--url", evil[1])


@pytest.mark.parametrize("command", [predict, models, evaluate])
def test_errors_of_a_server_take_one_line(
    evil: tuple[Evil, str], image: Path, command: Any
) -> None:
    evil[0].refuses = True
    name = command.__name__.rpartition(".")[2]
    arguments: dict[str, list[str | Path]] = {
        "predict": [image, "--model", EVIL.replace("\0", "")],
        "models": [],
        "evaluate": ["--model", "good", "--data", image.parents[1]],
    }
    text = said(command.app, name, *arguments[name], "--url", evil[1], status=1)
    assert text.startswith("convserve: ")
    assert len(text.splitlines()) == 1
    assert "NOT_FOUND" in text


@pytest.mark.parametrize("text", ["no json", '{"1": "x"}', "[1]", '{"1": 1' + "0" * 400 + "}"])
@pytest.mark.parametrize("parameter", ["latency_ms", "accuracy"])
def test_numbers_that_cannot_be_read_are_named(
    evil: tuple[Evil, str], parameter: str, text: str
) -> None:
    setattr(evil[0], parameter.removesuffix("_ms"), text)
    assert f"{parameter} cannot be read" in said(models.app, "models", "--url", evil[1], status=1)


@pytest.mark.parametrize(
    "result",
    [
        pb.Classification(),
        pb.Classification(labels=[pb.Label(index=2, name="third", score=1.0)]),
        pb.Segmentation(height=2, width=3),
        pb.Segmentation(height=2, width=3, rle=pb.RunLengths(runs=[0, 4_000_000_000])),
        pb.Segmentation(height=2, width=3, rle=pb.RunLengths(runs=[2, 6])),
        pb.Embedding(),
        pb.Embedding(values=[np.nan, 1.0]),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_answer_that_does_not_fit_its_model_is_a_failure(
    evil: tuple[Evil, str], image: Path, command: str, result: Any
) -> None:
    service, url = evil
    data = image.parents[1]
    match result:
        case pb.Classification():
            service.classified = result
        case pb.Segmentation():
            service.task, service.segmented = "segmentation", result
            (data / "images").mkdir()
            (data / "masks").mkdir()
            Image.new("RGB", (3, 2)).save(data / "images" / "0.png")
            Image.new("L", (3, 2)).save(data / "masks" / "0.png")
            (data / "classes.txt").write_text("red\nblue\n")
        case _:
            service.task, service.embedded = "embedding", [result]
    if command == "predict":
        text = said(predict.app, "predict", image, "--model", "m", "--url", url, status=1)
    else:
        here = ("--model", "m", "--data", data, "--url", url)
        text = said(evaluate.app, "evaluate", *here, status=1)
    assert "INTERNAL" in text


def test_embeddings_of_different_lengths_are_a_failure(evil: tuple[Evil, str], image: Path) -> None:
    service, url = evil
    service.task = "embedding"
    service.embedded = [pb.Embedding(values=[1.0] * n) for n in (2, 3)]
    images = [image, image.with_name("1.png")]
    text = said(predict.app, "predict", *images, "--model", "m", "--url", url, status=1)
    assert "INTERNAL" in text
    assert "2 values" in text


def test_images_of_one_name_have_masks_of_their_own(evil: tuple[Evil, str], tmp_path: Path) -> None:
    service, url = evil
    service.task = "segmentation"
    out = tmp_path / "out"
    out.mkdir()
    images = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.jpg", tmp_path / "b" / "X.png"]
    images += [out / "x-3.mask.png", out / "y.png", out / "y.mask.png"]
    before = {}
    for number, path in enumerate(images):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2), (number, 0, 0)).save(path)
        before[path] = path.read_bytes()
    here = ("--model", "m", "--url", url, "--save", out, "--json")
    found = json.loads(said(predict.app, "predict", *images, *here))
    masks = [Path(result["mask"]) for result in found]
    assert len({mask.name.casefold() for mask in masks}) == len(images)
    assert all(mask.is_file() for mask in masks)
    assert {path: path.read_bytes() for path in images} == before
    assert masks[0] == out / "x.mask.png"
