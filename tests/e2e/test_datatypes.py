"""Every datatype of the protocol, raw and typed, through networks that give back what they get."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from protos.gen import grpc_service_pb2 as pb
from protos.gen import grpc_service_pb2_grpc
from tests.support.identity import VALUES, publish_identity
from tests.support.process import ServerProcess
from tests.support.triton_clients import WIRES, Failed, Session, outcome

# Which list of InferTensorContents holds the elements of a type; FP16 and BF16 travel raw only.
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
TYPED = tuple(CONTENTS)
HALVES = ("FP16", "BF16")


@pytest.fixture(scope="module")
def identity_server(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[ServerProcess]:
    """ONNX Runtime, which runs everything but BF16."""
    repository = tmp_path_factory.mktemp("identity")
    publish_identity(repository, "typed", TYPED)
    publish_identity(repository, "batched", TYPED, max_batch_size=4)
    publish_identity(repository, "half", ("FP16",))
    server = ServerProcess(repository, "--allow-ungated", "--engine", "onnxruntime", cache=cache)
    yield server.wait_ready()
    server.kill()


@pytest.fixture(scope="module")
def openvino_server(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[ServerProcess]:
    """OpenVINO, whose Python interface takes BF16 as its bits; it takes no strings."""
    pytest.importorskip("openvino")
    repository = tmp_path_factory.mktemp("halves")
    publish_identity(repository, "halves", HALVES)
    server = ServerProcess(repository, "--allow-ungated", "--engine", "openvino", cache=cache)
    yield server.wait_ready()
    server.kill()


@pytest.mark.parametrize("model", ["typed", "batched"])
@pytest.mark.parametrize("wire", list(WIRES))
def test_raw_tensors_come_back_as_they_went(
    identity_server: ServerProcess, wire: str, model: str
) -> None:
    shape = (1, 4) if model == "batched" else (4,)
    with closing(Session(wire, identity_server.url, identity_server.http)) as session:
        arrays = {kind: VALUES[kind].reshape(shape) for kind in TYPED}
        inputs = [session.input(f"in_{kind}", array, kind) for kind, array in arrays.items()]
        result = session.call("infer", model, inputs)
        for kind, array in arrays.items():
            found = result.as_numpy(f"out_{kind}")
            assert found.dtype == triton_to_np_dtype(kind)
            assert found.shape == shape
            assert found.tolist() == array.tolist(), kind


def test_json_tensors_come_back_as_they_went(identity_server: ServerProcess) -> None:
    with closing(Session("http", identity_server.url, identity_server.http)) as session:
        inputs = [
            session.input(f"in_{kind}", VALUES[kind], kind, binary_data=False) for kind in TYPED
        ]
        wanted = [
            session.triton.InferRequestedOutput(f"out_{kind}", binary_data=False) for kind in TYPED
        ]
        result = session.call("infer", "typed", inputs, outputs=wanted)
        for kind in TYPED:
            output = result.get_output(f"out_{kind}")
            assert output["datatype"] == kind
            assert output["data"] == [
                x.decode() if kind == "BYTES" else x for x in VALUES[kind].tolist()
            ]


def test_json_tensors_may_be_nested(identity_server: ServerProcess) -> None:
    inputs: list[dict[str, Any]] = [
        {
            "name": f"in_{kind}",
            "datatype": kind,
            "shape": [1, 4],
            "data": [[x.decode() if kind == "BYTES" else x for x in VALUES[kind].tolist()]],
        }
        for kind in TYPED
    ]
    request = urllib.request.Request(
        f"{identity_server.http}/v2/models/batched/infer",
        data=json.dumps({"inputs": inputs}).encode(),
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        outputs = json.loads(response.read())["outputs"]
    found = {output["name"]: (output["shape"], output["data"]) for output in outputs}
    assert found == {
        tensor["name"].replace("in_", "out_"): ([1, 4], tensor["data"][0]) for tensor in inputs
    }


def test_typed_contents_come_back_as_they_went(identity_server: ServerProcess) -> None:
    request = pb.ModelInferRequest(model_name="typed")
    for kind, field in CONTENTS.items():
        tensor = request.inputs.add(name=f"in_{kind}", datatype=kind, shape=[4])
        getattr(tensor.contents, field).extend(VALUES[kind].tolist())
    with grpc.insecure_channel(identity_server.url) as channel:
        answer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    found = dict(
        zip([output.name for output in answer.outputs], answer.raw_output_contents, strict=True)
    )
    for kind in TYPED:
        assert found[f"out_{kind}"] == raw(kind), kind


def raw(kind: str) -> bytes:
    """VALUES of a type as they travel raw."""
    if kind == "BYTES":
        return b"".join(len(x).to_bytes(4, "little") + x for x in VALUES[kind])
    return VALUES[kind].tobytes()


@pytest.mark.parametrize("wire", list(WIRES))
def test_half_precision_comes_back_bit_for_bit(
    identity_server: ServerProcess, openvino_server: ServerProcess, wire: str
) -> None:
    for server, model, kinds in (
        (identity_server, "half", ("FP16",)),
        (openvino_server, "halves", HALVES),
    ):
        with closing(Session(wire, server.url, server.http)) as session:
            metadata = session.call("get_model_metadata", model)
            inputs = metadata["inputs"] if isinstance(metadata, dict) else metadata.inputs
            assert len(inputs) == len(kinds)
            # Every value of VALUES is exact in both.
            tensors = [session.input(f"in_{kind}", VALUES[kind], kind) for kind in kinds]
            result = session.call("infer", model, tensors)
            for kind in kinds:
                found = result.as_numpy(f"out_{kind}")
                assert found.tolist() == VALUES[kind].tolist(), kind
                output = result.get_output(f"out_{kind}")
                datatype = output["datatype"] if isinstance(output, dict) else output.datatype
                assert datatype == kind


@pytest.mark.parametrize("kind", HALVES)
def test_half_precision_has_no_typed_contents(openvino_server: ServerProcess, kind: str) -> None:
    request = pb.ModelInferRequest(model_name="halves")
    for first in (kind, *HALVES):
        if all(tensor.datatype != first for tensor in request.inputs):
            tensor = request.inputs.add(name=f"in_{first}", datatype=first, shape=[4])
            tensor.contents.fp32_contents.extend([1.0] * 4)
    with (
        grpc.insecure_channel(openvino_server.url) as channel,
        pytest.raises(grpc.RpcError) as failure,
    ):
        grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{kind} can only be sent raw" in failure.value.details()


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_bytes_that_are_no_text_are_refused(identity_server: ServerProcess, wire: str) -> None:
    """A network's strings are UTF-8; what is not would fail the whole batch."""
    with closing(Session(wire, identity_server.url, identity_server.http)) as session:
        inputs = [session.input(f"in_{kind}", VALUES[kind], kind) for kind in TYPED[:-1]]
        text = np.array([b"a", b"b", b"\xff\xfe", b"d"], np.object_)
        inputs.append(session.input("in_BYTES", text, "BYTES"))
        found = outcome(session.call, "infer", "typed", inputs)
    assert isinstance(found, Failed)
    assert found.status == ("INVALID_ARGUMENT" if wire == "grpc" else "400")
    assert "input 'in_BYTES': element [2] is not UTF-8 text" in found.message


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_tensors_larger_than_grpcs_default_limit_travel(
    identity_server: ServerProcess, wire: str
) -> None:
    """12 MiB there and back; gRPC's own limit is 4."""
    large = np.arange(3 << 20, dtype=np.float32)
    with closing(Session(wire, identity_server.url, identity_server.http)) as session:
        inputs: list[Any] = [
            session.input(f"in_{kind}", large if kind == "FP32" else VALUES[kind], kind)
            for kind in TYPED
        ]
        wanted = [session.triton.InferRequestedOutput("out_FP32")]
        result = session.call("infer", "typed", inputs, outputs=wanted)
        assert np.array_equal(result.as_numpy("out_FP32"), large)


def test_values_cover_every_datatype_of_the_client() -> None:
    assert set(VALUES) == {*TYPED, *HALVES}
    assert all(np_to_triton_dtype(VALUES[k].dtype) == k for k in TYPED)
