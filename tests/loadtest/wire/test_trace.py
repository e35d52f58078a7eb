"""Requests with a span of their own, over every wire."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.payloads.content import Payload, TensorInput
from loadtest.results import OK
from loadtest.wire.grpc_client import StreamClient, UnaryClient
from loadtest.wire.messages import (
    ModelFacts,
    Request,
    infer_request,
    rest_request,
    vision_request,
)
from loadtest.wire.rest_client import RestClient
from tests.support.in_process import InProcess
from tests.support.pictures import encoded
from tests.support.traced import SAMPLED, SPAN, TRACE, traced

TENSORS = Payload(tensors={"x": np.ones((1, 3), np.float32)})
PLAIN = ModelFacts("plain", inputs=(TensorInput("x", "FP32", (-1, 3)),), output="y")
COLOURS = ModelFacts("colours", task="classification")


def image() -> Request:
    return vision_request(
        0, COLOURS, Payload(images=(encoded(np.zeros((8, 8, 3), np.uint8), "PNG"),))
    )


@pytest.mark.parametrize(
    ("connect", "request_", "name"),
    [
        (lambda urls: UnaryClient(urls[0], 10), infer_request(0, PLAIN, TENSORS), "ModelInfer"),
        (lambda urls: UnaryClient(urls[0], 10), image(), "Classify"),
        (lambda urls: StreamClient(urls[0], 10, 1), image(), "ClassifyStream"),
        (
            lambda urls: RestClient(urls[1], 10),
            rest_request(0, PLAIN, TENSORS, binary=True),
            "RestInfer",
        ),
    ],
    ids=["tensors", "image", "stream", "rest"],
)
def test_server_traces_the_request_that_has_a_span(
    tmp_path: Path, connect: Callable[[tuple[str, str]], Any], request_: Request, name: str
) -> None:
    async def work(server: InProcess) -> None:
        client = connect(server.urls)
        for traceparent in ("", SAMPLED["traceparent"]):
            outcome = await client.call(replace(request_, traceparent=traceparent), 0, 0)
            assert outcome[0] == OK
        await client.close()

    [call] = [span for span in traced(tmp_path, work) if span.name == name]
    assert f"{call.context.trace_id:032x}" == TRACE
    assert f"{call.parent.span_id:016x}" == SPAN
