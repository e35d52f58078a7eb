"""What a request declares is checked before its elements are read, alike on both wires."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from protos.gen import grpc_service_pb2 as pb
from protos.gen import model_config_pb2
from serving.base.errors import InvalidInput
from serving.base.metrics import FrontMetrics
from serving.base.tensor import TensorSpec
from serving.base.turns import Turns
from serving.models.facts import ModelFacts
from serving.repository.model_config import from_proto
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.declared import WantedOutput, expected
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.oip import OpenInference
from serving.server.endpoints.shared_memory import SharedMemory
from serving.server.endpoints.tracing import Tracer
from tests.support.in_process import InProcess, in_process

INFER = "/v2/models/plain/infer"
RPC = "/inference.GRPCInferenceService/ModelInfer"

Scenario = Callable[[InProcess], Awaitable[None]]


def serve(folder: Path, scenario: Scenario, **settings: Any) -> None:
    async def run() -> None:
        async with in_process(folder, **settings) as served:
            await scenario(served)

    asyncio.run(run())


def x(rows: int = 1, **changes: Any) -> dict[str, Any]:
    """The input of `plain` in JSON."""
    return {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": [1] * 3 * rows} | changes


def message(raw: bytes = bytes(12), **changes: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="plain")
    declared = {"name": "x", "datatype": "FP32", "shape": [1, 3]} | changes
    request.inputs.add(**declared)
    request.raw_input_contents.append(raw)
    return request


async def refused(served: InProcess, request: pb.ModelInferRequest) -> str:
    """The text of the INVALID_ARGUMENT that a gRPC call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await served.rpc(RPC, request)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return failure.value.details() or ""


async def refused_over_rest(served: InProcess, body: dict[str, Any] | bytes) -> str:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = await served.rest("POST", INFER, data=data)
    assert status == 400, answer
    return str(answer["error"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "none"}, "has no input 'none'"),
        ({"datatype": "BYTES"}, "got BYTES"),
        ({"datatype": "BYTES", "shape": [1, 70_000]}, "at most 65536 elements"),
        ({"datatype": "INT32"}, "got INT32"),
        ({"shape": [3]}, r"got FP32 [3]"),
        ({"shape": [1, 4]}, "got FP32 [1, 4]"),
        ({"shape": [9, 3]}, "expected 1 to 8 rows"),
        ({"shape": [0, 3]}, "expected 1 to 8 rows"),
        ({"shape": [1 << 40, 3]}, "expected 1 to 8 rows"),
        ({"shape": [1] * 100}, "100 dimensions"),
        ({"name": "encoded", "datatype": "FP32"}, "expected BYTES [n] or [n, 1]"),
        ({"name": "encoded", "datatype": "BYTES", "shape": [9]}, "expected 1 to 8 rows"),
    ],
)
def test_declaration_is_refused_before_elements_are_read(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    async def scenario(served: InProcess) -> None:
        # Elements that nothing can read: they would be the error that is told.
        assert said in await refused(served, message(b"\xff\xff\xff\xff", **changes))
        declared = {"inputs": [x(**changes, data={"no": "elements"})]}
        assert said in await refused_over_rest(served, declared)

    serve(tmp_path, scenario)


def test_declaration_is_checked_once_on_the_way_to_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[tuple[int, ...]] = []
    fits = TensorSpec.fits

    def noted(self: TensorSpec, shape: tuple[int, ...]) -> bool:
        checked.append(shape)
        return fits(self, shape)

    async def scenario(served: InProcess) -> None:
        monkeypatch.setattr(TensorSpec, "fits", noted)
        body = {"inputs": [x(shape=[2, 3], data=[1, 2, 3, 4, 5, 6])]}
        status, answer = await served.rest("POST", INFER, data=json.dumps(body).encode())
        assert (status, answer["outputs"][0]["data"]) == (200, [2, 4, 6, 8, 10, 12])

    serve(tmp_path, scenario)
    assert checked == [(2, 3)]


def test_inputs_that_are_missing_or_too_many_are_named(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        more = message()
        more.inputs.add(name="other", datatype="FP32", shape=[1, 3])
        assert "has no input 'other'" in await refused(served, more)
        assert "'x' of model 'plain' is missing" in await refused_over_rest(served, {"inputs": []})
        body = {"inputs": [x(), x(name="other")]}
        assert "has no input 'other'" in await refused_over_rest(served, body)

    serve(tmp_path, scenario)


@pytest.mark.parametrize("kind", ["inputs", "outputs", "parameters"])
def test_number_of_what_a_request_names_is_bounded(tmp_path: Path, kind: str) -> None:
    async def scenario(served: InProcess) -> None:
        request, names = message(), [f"n{number}" for number in range(65)]
        body: dict[str, Any] = {"inputs": [x()]}
        if kind == "parameters":
            for name in names:
                request.parameters[name].int64_param = 1
            body["parameters"] = dict.fromkeys(names, 1)
        else:
            for name in names:
                getattr(request, kind).add(name=name)
            body[kind] = [x(name=name) for name in names]
        for said in (await refused(served, request), await refused_over_rest(served, body)):
            assert f"{kind}: expected at most 64" in said

    serve(tmp_path, scenario)


def test_output_that_is_asked_for_twice_is_refused(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = message()
        for name in ("y", "z", "y"):
            request.outputs.add(name=name)
        assert "'y' is asked for twice" in await refused(served, request)
        body = {"inputs": [x()], "outputs": [{"name": name} for name in ("y", "z", "y")]}
        assert "'y' is asked for twice" in await refused_over_rest(served, body)

    serve(tmp_path, scenario)


def test_ranking_of_more_classes_than_there_are_gives_all(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = message()
        request.outputs.add(name="y").parameters["classification"].int64_param = 1 << 31
        answer = pb.ModelInferResponse.FromString(await served.rpc(RPC, request))
        assert list(answer.outputs[0].shape) == [1, 3]

    serve(tmp_path, scenario)


def test_answer_past_the_limit_is_bad_input_on_both_wires(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        said = await refused(served, message(bytes(8 * 12), shape=[8, 3]))
        assert "the limit is 150 (--max-message-mib)" in said
        assert "binary data" in await refused_over_rest(served, {"inputs": [x(8)]})
        await served.rpc(RPC, message())

    serve(tmp_path, scenario, max_answer=150)


def test_id_is_bounded(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = message()
        request.id = "i" * 70_000
        assert "id: expected at most 65536 bytes, got 70000" in await refused(served, request)
        body = {"id": request.id, "inputs": [x()]}
        assert "id: expected text of at most 65536" in await refused_over_rest(served, body)
        for value in ([1], {"a": 1}, True, 1.5):
            assert "id: expected text" in await refused_over_rest(served, {"id": value})

    serve(tmp_path, scenario)


def test_head_of_a_message_is_bounded_before_protobuf_reads_it(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = message()
        request.inputs[0].parameters["note"].string_param = "x" * 70_000
        assert "beside its tensors" in await refused(served, request)
        for number in range(2000):
            request.parameters[str(number)].bool_param = True
        assert "at most 1024 fields" in await refused(served, request)

    serve(tmp_path, scenario)


def test_json_past_its_limit_is_413_and_binary_is_not(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        numbers = ", ".join(["1." + "0" * 800] * 3)
        body = json.dumps({"inputs": [x(data=[])]}).replace("[]", f"[{numbers}]").encode()
        status, answer = await served.rest("POST", INFER, data=body)
        assert (status, "binary data" in answer["error"]) == (413, True)
        head = json.dumps({"inputs": [x(parameters={"binary_data_size": 12})]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        status, _ = await served.rest("POST", INFER, data=head + bytes(12), headers=headers)
        assert status == 200

    serve(tmp_path, scenario, max_json=2000)


def test_memory_of_requests_is_given_back(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        texts = struct.pack("<I", 0) * 20_000
        said = await refused(served, message(texts, name="encoded", datatype="BYTES", shape=[1]))
        assert "got more" in said
        assert "is missing" in await refused_over_rest(served, b'{"id": "' + b"x" * 30_000 + b'"}')
        await served.rpc(RPC, message())
        for use in ("message", "batch", "answer"):
            assert served.value("convserve_memory_held_bytes", use=use) == 0

    serve(tmp_path, scenario)


def facts(*outputs: TensorSpec, max_batch_size: int = 4) -> ModelFacts:
    proto = model_config_pb2.ModelConfig(platform="fake", max_batch_size=max_batch_size)
    config = from_proto(proto, Path("m") / "config.pbtxt")
    return ModelFacts(config, "1", "fake", "fp32", None, (), outputs)


MASKS = facts(TensorSpec("mask", "UINT8", (-1, 1000, 1000)), TensorSpec("l", "FP32", (-1, 1000)))


@pytest.mark.parametrize(
    ("wanted", "as_text", "size"),
    [
        ([], (), 1_004_000),
        ([WantedOutput("l")], (), 4000),
        ([WantedOutput("mask")], {"mask"}, 5_000_000),
        ([WantedOutput("l")], {"l"}, 26_000),
        ([WantedOutput("l", class_count=1 << 31)], (), 200_000),
        ([WantedOutput("l", class_count=5)], {"l"}, 1000),
    ],
)
def test_memory_of_an_answer_is_known_from_its_shapes(
    wanted: list[WantedOutput], as_text: Any, size: int
) -> None:
    assert expected(MASKS, 2, wanted, as_text) == (2 * 1_004_000, 2 * size, True)


def test_answer_is_held_before_the_work_where_its_size_is_fixed() -> None:
    held: list[int] = []
    call: Any = SimpleNamespace(hold=lambda use, size: held.append(size))
    tracer = Tracer(FilesFolder(None), FrontMetrics().write_failures)
    everybody = Admin("open", explicit=True, memory=True)
    server = OpenInference(SharedMemory("convserve"), tracer, everybody, 2_500_000, Turns())
    server.accept(call, expected(MASKS, 2, [], ()))
    assert held == [4 * 1_004_000]
    with pytest.raises(InvalidInput, match="the answer takes up to 10008000 bytes"):
        server.accept(call, expected(MASKS, 2, [], {"mask"}))
    unknown = facts(TensorSpec("y", "FP32", (-1, -1)))
    server.accept(call, expected(unknown, 2, [], ()))
    assert len(held) == 1


def test_ranking_of_too_many_classes_is_refused_before_the_work() -> None:
    with pytest.raises(InvalidInput, match="at most 65536 values a row"):
        expected(MASKS, 1, [WantedOutput("mask", class_count=1)], ())
    wide = facts(TensorSpec("l", "FP32", (-1, 40_000)))
    assert expected(wide, 4, [WantedOutput("l", class_count=5)], ()).complete
    with pytest.raises(InvalidInput, match="as many classes in all"):
        expected(wide, 4, [WantedOutput("l", class_count=1 << 31)], ())
