import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.payloads.content import Payload, TensorInput
from loadtest.results import pack_record
from loadtest.wire.messages import (
    READERS,
    ModelFacts,
    infer_options,
    infer_request,
    rest_request,
    vision_options,
    vision_request,
)
from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision


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


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("code", [-1, 17, 300, 2**31 - 1])
def test_numbers_of_a_server_that_no_record_holds_are_unknown_or_cut(
    code: int, images: int
) -> None:
    timing = vision.Timing(batch_size=2**32 - 1, decode_us=2**32 - 1)
    result = vision.Classification(status=vision.Status(code=code), timing=timing)
    whole = vision.ClassifyResponse(served=vision.Served(status=vision.Status(code=code)))
    for response in (whole, vision.ClassifyResponse(results=[result] * images)):
        status, right, *rest = READERS["Classify"](response.SerializeToString(), ())
        assert status == 2
        assert pack_record(0, 0, 0, 0, status, 0, 0, 1, right, *rest)


def test_answer_without_outputs_is_a_failure() -> None:
    assert READERS["ModelInfer"](b"", ("red",))[0] == 2
