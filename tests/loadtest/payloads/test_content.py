import itertools
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from loadtest.cli.options import contents, duration, weighted
from loadtest.errors import LoadTestError
from loadtest.payloads.content import (
    ALWAYS_ZERO,
    Distribution,
    Payload,
    TensorInput,
    draws,
    image_folder,
    labelled_folder,
    npy_tensors,
    parse_distribution,
    random_tensors,
)
from loadtest.payloads.synthetic_images import synthetic_images
from loadtest.wire.messages import (
    ModelFacts,
    infer_options,
    infer_request,
    rest_request,
    vision_options,
    vision_request,
)
from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.jpg").write_bytes(f"{name} {i}".encode())
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_images_are_sent_as_they_are(folder: Path) -> None:
    found = {payload.images[0] for payload in image_folder(folder, 1, 0)}
    assert found == {f"{name} {i}".encode() for name in ("cat", "dog") for i in range(3)}


def test_the_folder_of_an_image_is_its_label(folder: Path) -> None:
    for payload in labelled_folder(folder, 2, 0):
        assert [image.split()[0].decode() for image in payload.images] == list(payload.expected)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="no images"):
        image_folder(tmp_path, 1, 0)
    with pytest.raises(LoadTestError, match="not a folder"):
        image_folder(tmp_path / "none", 1, 0)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(LoadTestError, match="one for each class"):
        labelled_folder(tmp_path, 1, 0)


def test_synthetic_images_have_the_sizes() -> None:
    sizes = set()
    for payload in synthetic_images([(64, 48), (20, 30)], 1, 0):
        pixels = cv2.imdecode(np.frombuffer(payload.images[0], np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        sizes.add((pixels.shape[1], pixels.shape[0]))
    assert sizes == {(64, 48), (20, 30)}


def test_random_tensors_are_as_the_metadata_says() -> None:
    inputs = [TensorInput("x", "FP32", (-1, 3, -1)), TensorInput("ids", "INT64", (-1, 2))]
    payload = random_tensors(inputs, {"x": (3, 5)}, 4, 0)[0]
    assert payload.tensors["x"].shape == (4, 3, 5)
    assert payload.tensors["x"].dtype == np.float32
    assert payload.tensors["ids"].shape == (4, 2)
    assert payload.rows == 4
    with pytest.raises(LoadTestError, match="--shape x=SIZE"):
        random_tensors(inputs, {}, 1, 0)
    with pytest.raises(LoadTestError, match="no input 'y'"):
        random_tensors(inputs, {"y": (1,)}, 1, 0)


def test_npy_rows_become_requests(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    inputs = (TensorInput("x", "FP32", (-1, 2)),)
    payloads = npy_tensors({"": tmp_path / "x.npy"}, inputs, 2)
    assert [p.tensors["x"].tolist() for p in payloads] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    with pytest.raises(LoadTestError, match="give NAME="):
        npy_tensors({"z": tmp_path / "x.npy"}, inputs, 1)
    with pytest.raises(LoadTestError, match="5 rows"):
        npy_tensors({"": tmp_path / "x.npy"}, inputs, 6)


def test_models_are_drawn_by_weight_and_each_payload_once_a_round() -> None:
    drawn = draws([(10, 3.0), (5, 1.0)], ALWAYS_ZERO, ALWAYS_ZERO, (0,))
    indices = [index for index, _, _ in itertools.islice(drawn, 8000)]
    first = [i for i in indices if i < 10]
    assert len(first) / len(indices) == pytest.approx(0.75, abs=0.02)
    for start in range(0, 500, 10):
        assert sorted(first[start : start + 10]) == list(range(10))


def test_workers_draw_differently_and_repeatably() -> None:
    def indices(worker: int) -> list[int]:
        drawn = draws([(100, 1.0)], ALWAYS_ZERO, ALWAYS_ZERO, (5, worker))
        return [index for index, _, _ in itertools.islice(drawn, 50)]

    assert indices(0) == indices(0)
    assert indices(0) != indices(1)


def test_deadlines_and_priorities_follow_their_distributions() -> None:
    deadlines = parse_distribution("50ms=3,1s=1", duration)
    priorities = Distribution((1.0, 2.0), (1.0, 1.0))
    drawn = list(itertools.islice(draws([(1, 1.0)], deadlines, priorities, (0,)), 4000))
    counts = Counter(deadline for _, deadline, _ in drawn)
    assert set(counts) == {0.05, 1.0}
    assert counts[0.05] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {priority for _, _, priority in drawn} == {1, 2}
    between = parse_distribution("20ms..100ms", duration)
    drawn_between = between.draw(np.random.default_rng(0), 1000)
    assert 0.02 <= drawn_between.min() < 0.03
    assert 0.09 < drawn_between.max() <= 0.1


@pytest.mark.parametrize("text", ["", "x", "1s..2ms", "1s=-1", "1s=0", "ms"])
def test_wrong_distributions_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its caller words the message
        parse_distribution(text, duration)


def test_options_laid_behind_a_request_are_part_of_it() -> None:
    facts = ModelFacts("m", task="classification")
    request = vision_request(0, facts, Payload(images=(b"jpeg",)))
    parsed = vision.ClassifyRequest.FromString(request.body + vision_options(2, 0.25))
    assert parsed.images[0].encoded == b"jpeg"
    assert parsed.options.priority == 2
    assert parsed.options.timeout.ToMilliseconds() == 250
    plain = infer_request(
        0,
        ModelFacts("m", inputs=(TensorInput("x", "UINT8", (-1, 2)),)),
        Payload(tensors={"x": np.zeros((1, 2), np.uint8)}),
    )
    inferred = oip.ModelInferRequest.FromString(plain.body + infer_options(3, 0.5))
    assert inferred.parameters["priority"].uint64_param == 3
    assert inferred.parameters["timeout"].int64_param == 500_000


def test_a_tensor_of_the_wrong_type_is_refused() -> None:
    facts = ModelFacts("m", inputs=(TensorInput("x", "FP32", (-1, 2)),))
    with pytest.raises(LoadTestError, match="expected FP32, got uint8"):
        infer_request(0, facts, Payload(tensors={"x": np.zeros((1, 2), np.uint8)}))
    with pytest.raises(LoadTestError, match="no input for image files"):
        infer_request(0, facts, Payload(images=(b"x",)))
    with pytest.raises(LoadTestError, match="over gRPC only"):
        rest_request(
            0,
            ModelFacts("m", encoded_input="e"),
            Payload(images=(b"x",)),
            binary=False,
        )


def test_payload_options_may_name_their_model() -> None:
    found = contents(["a", "b"], ["a=one", "two"], None, None, None, None, 1)
    assert found["a"].images == Path("one")
    assert found["b"].images == Path("two")
    assert weighted(["a=3", "b"]) == {"a": 3.0, "b": 1.0}
