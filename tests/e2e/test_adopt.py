"""Models of a Triton repository, adopted while a server answers their clients."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format
from typer.testing import CliRunner

from serving.client import VisionClient, mask_of
from serving.repository.manifest import read_manifest
from tests.support.foreign import (
    LABELS,
    NETWORKS,
    Foreign,
    coloured,
    write_foreign,
    write_items,
    write_pictures,
)
from tests.support.process import START_SECONDS, ServerProcess
from tests.support.published import CPU_ENGINES
from training.cli.adopt import app
from training.pipeline.adopt import judging

PIXELS = """
transform: {resize: [16, 16]}
input: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
"""
TASKS = {"opset11": "classification", "masks": "segmentation"}


def call(client: Any, name: str, network: Foreign) -> dict[str, np.ndarray]:
    """The answers of a served model to inputs that are always the same."""
    inputs = []
    for tensor, one in network.one(np.random.default_rng(3)).items():
        array = np.ascontiguousarray(one[np.newaxis] if network.batches else one)
        inputs.append(triton.InferInput(tensor, array.shape, "FP32"))
        inputs[-1].set_data_from_numpy(array)
    answer = client.infer(name, inputs)
    return {output: answer.as_numpy(output) for output in network.outputs}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)  # between two looks at a condition that no event tells of


@dataclass
class Seen:
    """A repository that was adopted while it was served, and what its clients saw.

    answers: before and after, by model.
    metadata, variants: before, and after, by model.
    failures: errors of calls that went on all the time.
    """

    repository: Path
    server: ServerProcess
    answers: dict[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Seen]:
    root = tmp_path_factory.mktemp("adopt")
    repository = root / "repository"
    for name in NETWORKS:
        write_foreign(repository, name)
    flags = ("--model-control", "poll", "--poll-seconds", "0.1", "--allow-ungated")
    found = Seen(repository, ServerProcess(repository, *flags, cache=cache).wait_ready())
    kept = {file: file.read_bytes() for file in repository.rglob("*") if file.is_file()}
    with closing(triton.InferenceServerClient(found.server.url)) as client:

        def look() -> None:
            for name, network in NETWORKS.items():
                found.answers.setdefault(name, []).append(call(client, name, network))
                metadata = client.get_model_metadata(name)
                found.metadata.setdefault(name, []).append(json_format.MessageToDict(metadata))

        def variant_of(name: str) -> str:
            config = client.get_model_config(name).config
            return str(config.parameters["variant"].string_value)

        look()
        ended = threading.Event()
        calling = threading.Thread(target=keep_calling, args=(found, ended))
        calling.start()
        try:
            adopt_all(root, repository)
            for name in NETWORKS:
                wait_until(lambda name=name: variant_of(name) != "default")  # type: ignore[misc]
        finally:
            ended.set()
            calling.join()
        look()
        found.variants = {name: variant_of(name) for name in NETWORKS}
    assert {file: file.read_bytes() for file in kept} == kept
    yield found
    found.server.kill()


def keep_calling(seen: Seen, ended: threading.Event) -> None:
    with closing(triton.InferenceServerClient(seen.server.url)) as client:
        while not ended.wait(0.05):
            for name, network in NETWORKS.items():
                try:
                    call(client, name, network)
                except triton.InferenceServerException as error:
                    seen.failures.append(str(error))


def adopt_all(root: Path, repository: Path) -> None:
    pictures = write_pictures(root / "pictures")
    (root / "pixels.yaml").write_text(PIXELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "_LATENCY_SECONDS", 0.0)
        for name, network in NETWORKS.items():
            flags = ["adopt", str(repository / name), "--data"]
            if name in TASKS:
                flags += [str(pictures / TASKS[name]), "--task", TASKS[name]]
                flags += ["--preprocess", str(root / "pixels.yaml")]
            else:
                flags += [str(write_items(root / "items" / name, network))]
            result = CliRunner().invoke(app, flags)
            assert result.exit_code == 0, result.output


def test_clients_never_notice_that_a_model_is_adopted(seen: Seen) -> None:
    assert seen.failures == []
    assert all(before == after for before, after in seen.metadata.values())
    assert set(seen.variants.values()) <= {"fp32", "bf16", "fp16", "int8-s8", "int8-u8"}


@pytest.mark.parametrize("name", NETWORKS)
def test_whatever_variant_serves_answers_within_its_gate(name: str, seen: Seen) -> None:
    before, after = seen.answers[name]
    for output, wanted in before.items():
        assert after[output].dtype == wanted.dtype
        assert after[output].shape == wanted.shape
        if wanted.dtype == np.float32:
            away = np.linalg.norm(after[output] - wanted) / np.linalg.norm(wanted)
            assert away < 0.1, (output, seen.variants[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_int8_in_both_engines(name: str, seen: Seen) -> None:
    manifest = read_manifest(seen.repository / name / "1")
    assert manifest is not None
    assert {variant.id for variant in manifest.variants} >= {"fp32", "fp16", "int8-s8", "int8-u8"}
    for variant in manifest.variants:
        gates = {engine: found.gate for engine, found in variant.evidence.items()}
        assert all(gate.passed for gate in gates.values())
        assert set(gates) == ({"openvino"} if variant.id == "bf16" else set(CPU_ENGINES))


def test_fp32_answers_as_before_and_needs_no_leave_to_be_ungated(
    seen: Seen, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(seen.repository, "--variant", "fp32", "--strict-readiness").wait_ready()
    with closing(triton.InferenceServerClient(server.url)) as client:
        for name, network in NETWORKS.items():
            for output, found in call(client, name, network).items():
                np.testing.assert_allclose(found, seen.answers[name][0][output], atol=1e-3)


def jpeg(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert ok
    return data.tobytes()


def test_a_classifier_takes_images_and_names_their_classes(seen: Seen) -> None:
    rng = np.random.default_rng(1)
    with VisionClient(seen.server.url) as client:
        for channel in range(3):
            answer = client.classify("opset11", jpeg(coloured(channel, rng)), top_k=4)
            labels = answer.results[0].labels
            assert labels[0].name == LABELS[channel]
            assert sum(label.score for label in labels) == pytest.approx(1, abs=1e-3)


def test_encoded_images_get_the_answer_of_the_tensors_that_clients_made_of_them(
    seen: Seen,
) -> None:
    image = coloured(1, np.random.default_rng(2))
    ok, png = cv2.imencode(".png", image[..., ::-1])
    assert ok
    tensor = ((image.transpose(2, 0, 1)[np.newaxis] / 255 - 0.5) / 0.25).astype(np.float32)
    with closing(triton.InferenceServerClient(seen.server.url)) as client:
        sent = triton.InferInput("pixels", tensor.shape, "FP32")
        sent.set_data_from_numpy(tensor)
        encoded = triton.InferInput("encoded", [1], "BYTES")
        encoded.set_data_from_numpy(np.array([png.tobytes()], np.object_))
        answers = [client.infer("opset11", [one]).as_numpy("scores") for one in (sent, encoded)]
        np.testing.assert_allclose(*answers, atol=1e-4)
        with pytest.raises(triton.InferenceServerException, match="no images in its manifest"):
            client.infer("fixed_batch", [encoded])


def test_a_segmenter_answers_with_a_mask(seen: Seen) -> None:
    image = coloured(0, np.random.default_rng(4))
    image[:, 8:] = coloured(2, np.random.default_rng(5))[:, 8:]
    with VisionClient(seen.server.url) as client:
        answer = client.segment("masks", jpeg(image)).results[0]
    mask = mask_of(answer)
    assert (mask[:, :7] == 0).all()
    assert (mask[:, 9:] == 2).all()
    assert {area.name for area in answer.areas} >= {"red", "blue"}


def test_what_is_served_says_how_it_was_judged(seen: Seen) -> None:
    with closing(triton.InferenceServerClient(seen.server.url)) as client:
        told = {n: client.get_model_config(n).config.parameters for n in ("opset11", "no_batch")}
    assert told["opset11"]["task"].string_value == "classification"
    assert told["opset11"]["encoded_image_input"].string_value == "encoded"
    assert told["opset11"]["measure"].string_value == "top1"
    assert json.loads(told["opset11"]["accuracy"].string_value)["value"] == 1
    assert "task" not in told["no_batch"]
    assert "encoded_image_input" not in told["no_batch"]
    assert told["no_batch"]["measure"].string_value == "agreement"
    assert json.loads(told["no_batch"]["accuracy"].string_value)["value"] == 1
