"""VisionService over the wire, against a real server process."""

import io
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.status_pb2 import Status
from PIL import Image

from protos.gen import vision_pb2 as pb
from protos.gen import vision_pb2_grpc
from serving.client import CallFailed, VisionClient, mask_of
from serving.images.postprocess import runs_of
from tests.support.process import ServerProcess

RED, BLUE = (220, 30, 20), (10, 20, 200)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (20, 12)) -> bytes:
    """A PNG of one colour, width x height."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def half_red_half_blue() -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = RED
    pixels[:, 16:] = BLUE
    return pixels


@pytest.fixture
def client(server: ServerProcess) -> Iterator[VisionClient]:
    with VisionClient(server.url, retries=0) as client:
        yield client


def test_classify_ranks_the_classes_and_says_what_served(client: VisionClient) -> None:
    response = client.classify("colours", picture(RED))
    assert (response.served.model, response.served.version) == ("colours", "1")
    assert response.served.variant == "fp32"
    labels = response.results[0].labels
    assert labels[0].name == "red"
    assert [label.score for label in labels] == sorted((x.score for x in labels), reverse=True)
    assert sum(label.score for label in labels) == pytest.approx(1.0, abs=1e-5)


def test_softmax_scores_are_those_of_the_logits(client: VisionClient) -> None:
    labels = client.classify("colours", picture(RED)).results[0].labels
    logits = np.array(RED) * 10 / 255
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [x.score for x in sorted(labels, key=lambda x: x.index)] == pytest.approx(
        expected, abs=1e-4
    )


def test_top_k_and_threshold_shorten_the_list(client: VisionClient) -> None:
    assert len(client.classify("colours", picture(RED), top_k=2).results[0].labels) == 2
    above = client.classify("colours", picture(RED), threshold=0.9).results[0].labels
    assert [label.name for label in above] == ["red"]


def test_raw_pixels_are_answered_as_the_same_pixels_in_a_file(client: VisionClient) -> None:
    pixels = half_red_half_blue()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    raw = client.segment("regions", pixels)
    encoded = client.segment("regions", buffer.getvalue())
    assert raw.results[0].palette_png == encoded.results[0].palette_png


def test_mask_has_the_size_of_the_image_and_its_regions(client: VisionClient) -> None:
    result = client.segment("regions", half_red_half_blue()).results[0]
    mask = mask_of(result)
    assert mask.shape == (16, 32)
    assert (mask[:, :16] == 0).all()
    assert (mask[:, 16:] == 2).all()
    assert {(x.name, round(x.fraction, 2)) for x in result.areas} == {("red", 0.5), ("blue", 0.5)}


@pytest.mark.parametrize("mask_format", ["png", "rle", "raw"])
def test_every_mask_format_carries_the_same_mask(client: VisionClient, mask_format: Any) -> None:
    reference = mask_of(client.segment("regions", half_red_half_blue()).results[0])
    result = client.segment("regions", half_red_half_blue(), mask_format=mask_format).results[0]
    assert np.array_equal(mask_of(result), reference)
    if mask_format == "rle":
        assert list(result.rle.runs) == np.concatenate(list(runs_of(reference))).tolist()


def test_mask_at_the_size_of_the_model(client: VisionClient) -> None:
    result = client.segment("regions", half_red_half_blue(), mask_size="model").results[0]
    assert (result.height, result.width) == (8, 8)


def test_palette_png_opens_as_class_indices_with_colours(client: VisionClient) -> None:
    result = client.segment("regions", half_red_half_blue()).results[0]
    image = Image.open(io.BytesIO(result.palette_png))
    assert image.mode == "P"
    assert set(np.unique(np.asarray(image))) == {0, 2}
    colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) == 2


def test_overlay_is_a_png_of_the_size_of_the_image(client: VisionClient) -> None:
    result = client.segment("regions", half_red_half_blue(), overlay=True).results[0]
    assert Image.open(io.BytesIO(result.overlay_png)).size == (32, 16)


def test_embedding_lies_on_the_unit_sphere(client: VisionClient) -> None:
    values = np.array(client.embed("points", picture(BLUE)).results[0].values)
    assert np.linalg.norm(values) == pytest.approx(1.0, abs=1e-5)
    assert int(values.argmax()) == 2


def test_answer_carries_stage_times_and_batch_size(client: VisionClient) -> None:
    timing = client.classify("colours", picture(RED)).results[0].timing
    assert timing.batch_size == 1
    assert timing.decode_us > 0
    assert timing.infer_us > 0


def test_several_images_in_a_call_each_get_an_answer(client: VisionClient) -> None:
    response = client.classify("colours", [picture(RED), picture(BLUE)])
    assert [result.labels[0].name for result in response.results] == ["red", "blue"]


def test_bad_image_among_several_fails_alone(client: VisionClient) -> None:
    response = client.classify("colours", [picture(RED), b"not an image", picture(BLUE)])
    good, bad, other = response.results
    assert (good.labels[0].name, other.labels[0].name) == ("red", "blue")
    assert bad.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "not an image" in bad.status.message
    assert not bad.labels


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"", "empty"),
        (b"GIF89a" + bytes(40), "47 49 46"),
        (picture(RED)[:60], "cannot decode"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "header is damaged"),
    ],
)
def test_bad_image_alone_fails_the_call_and_says_why(
    client: VisionClient, image: bytes, said: str
) -> None:
    with pytest.raises(CallFailed) as failure:
        client.classify("colours", image)
    assert failure.value.code == "INVALID_ARGUMENT"
    assert said in failure.value.message


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (pb.ClassifyRequest(model="nothing"), "NOT_FOUND", "'colours'"),
        (pb.ClassifyRequest(model="colours", version="9"), "NOT_FOUND", "['1']"),
        (pb.ClassifyRequest(model="colours", version="one"), "NOT_FOUND", "'one'"),
        (pb.ClassifyRequest(model="regions"), "FAILED_PRECONDITION", "segmentation"),
        (pb.ClassifyRequest(model="colours"), "INVALID_ARGUMENT", "got 0"),
        (
            pb.ClassifyRequest(model="colours", images=[pb.Image()]),
            "INVALID_ARGUMENT",
            "images[0]",
        ),
        (
            pb.ClassifyRequest(
                model="colours",
                images=[pb.Image(raw=pb.RawImage(height=4, width=4, rgb=b"abc"))],
            ),
            "INVALID_ARGUMENT",
            "48 bytes",
        ),
        (
            pb.ClassifyRequest(
                model="colours", images=[pb.Image(encoded=picture(RED))], threshold=2.0
            ),
            "INVALID_ARGUMENT",
            "threshold",
        ),
    ],
)
def test_bad_request_gets_its_status_and_a_message_that_names_it(
    server: ServerProcess, request_: pb.ClassifyRequest, code: str, said: str
) -> None:
    with grpc.insecure_channel(server.url) as channel, pytest.raises(grpc.RpcError) as failure:
        vision_pb2_grpc.VisionServiceStub(channel).Classify(request_)
    assert failure.value.code().name == code
    assert said in failure.value.details()


def test_stream_answers_in_order_and_outlives_a_bad_message(server: ServerProcess) -> None:
    def requests() -> Iterator[pb.ClassifyRequest]:
        for index in range(200):
            image = b"bad" if index == 100 else picture(RED if index % 2 else BLUE)
            yield pb.ClassifyRequest(
                model="colours",
                images=[pb.Image(encoded=image)],
                options=pb.CallOptions(id=str(index)),
            )

    with grpc.insecure_channel(server.url) as channel:
        stub = vision_pb2_grpc.VisionServiceStub(channel)
        responses = list(stub.ClassifyStream(requests()))
    assert [response.served.id for response in responses] == [str(i) for i in range(200)]
    bad = responses.pop(100)
    assert bad.served.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert all(response.results[0].labels for response in responses)


def test_deadline_that_cannot_be_met_is_refused_with_a_retry_delay(server: ServerProcess) -> None:
    request = pb.ClassifyRequest(model="colours", images=[pb.Image(encoded=picture(RED))])
    request.options.timeout.nanos = 1
    with grpc.insecure_channel(server.url) as channel, pytest.raises(grpc.RpcError) as failure:
        vision_pb2_grpc.VisionServiceStub(channel).Classify(request)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = dict(failure.value.trailing_metadata())["grpc-status-details-bin"]
    assert Status.FromString(details).details[0].TypeName() == "google.rpc.RetryInfo"


def test_unknown_model_name_never_becomes_a_label(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.url) as channel, pytest.raises(grpc.RpcError):
        vision_pb2_grpc.VisionServiceStub(channel).Classify(
            pb.ClassifyRequest(model="made-up-name")
        )
    _, metrics = server.get(server.metrics_url)
    assert "made-up-name" not in metrics
    assert 'convserve_requests_total{code="NOT_FOUND",method="Classify",model="",' in metrics
