"""No request of tensors holds up the event loop: other callers are answered beside it."""

import gzip
import json
import re
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos.gen import grpc_service_pb2 as pb
from tests.support.beside import LoopProbe
from tests.support.identity import publish_identity
from tests.support.process import ServerProcess

# Seconds that the event loop may pause beyond the probe's own jitter: the bar of the benchmark of
# attacks. On a quiet machine it is a tenth of that.
PAUSE = 0.05
KINDS = ("FP32", "INT64", "BYTES")
INFER = "/inference.GRPCInferenceService/ModelInfer"

Attack = Callable[[ServerProcess], str]


@pytest.fixture(scope="module")
def identity_server(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[ServerProcess]:
    """Models whose one dimension each call may choose."""
    repository = tmp_path_factory.mktemp("identity")
    for kind in KINDS:
        publish_identity(repository, kind.lower(), (kind,))
    publish_identity(repository, "rows", KINDS[:1], max_batch_size=4)
    server = ServerProcess(repository, "--allow-ungated", "--engine", "onnxruntime", cache=cache)
    yield server.wait_ready()
    server.kill()


def posted(model: str, body: bytes, **headers: str) -> Attack:
    """Sends a REST body; the answer's status and beginning."""

    def attack(server: ServerProcess) -> str:
        request = urllib.request.Request(
            f"{server.http}/v2/models/{model}/infer",
            body,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return f"{response.status} {response.read(200).decode(errors='replace')}"
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {error.read(300).decode()}"

    return attack


def called(data: bytes) -> Attack:
    """Sends a ModelInferRequest; the status and the error's text."""

    def attack(server: ServerProcess) -> str:
        options = [("grpc.max_receive_message_length", 1 << 30)]
        with grpc.insecure_channel(server.url, options) as channel:
            try:
                channel.unary_unary(INFER)(data, timeout=60)
            except grpc.RpcError as error:
                return f"{error.code().name} {error.details()[:300]}"  # type: ignore[attr-defined]
        return "OK"

    return attack


def tensor(kind: str, shape: list[int], data: object = None, **parameters: object) -> bytes:
    member = {"name": f"in_{kind}", "datatype": kind, "shape": shape}
    if data is not None:
        member["data"] = data
    return json.dumps({"inputs": [member | {"parameters": parameters}]}).encode()


def message(kind: str, shape: list[int], raw: bytes | None = None) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=kind.lower())
    request.inputs.add(name=f"in_{kind}", datatype=kind, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def with_contents(kind: str, shape: list[int], contents: bytes) -> bytes:
    request = message(kind, shape)
    request.inputs[0].contents.MergeFromString(contents)
    return request.SerializeToString()


def same_output(times: int) -> bytes:
    request = message("FP32", [4], bytes(16))
    for _ in range(times):
        request.outputs.add(name="out_FP32")
    return request.SerializeToString()


def parameters(count: int) -> bytes:
    request = message("FP32", [4], bytes(16))
    for number in range(count):
        request.parameters[str(number)].int64_param = number
    return request.SerializeToString()


MIB = 1 << 20
FLOATS = 640_000
EMPTIES = 8 * MIB
TEXTS = b"".join(struct.pack("<I", 2) + b"ab" for _ in range(1 << 16))


def floats() -> list[float]:
    return np.random.default_rng(0).standard_normal(FLOATS).round(8).tolist()


def binary(kind: str, shape: list[int], raw: bytes) -> Attack:
    head = tensor(kind, shape, binary_data_size=len(raw))
    return posted(kind.lower(), head + raw, Inference_Header_Content_Length=str(len(head)))


ATTACKS: dict[str, tuple[Callable[[], Attack], str]] = {
    "JSON of 80 MiB out of 79 KB of gzip": (
        lambda: posted("fp32", gzip.compress(b" " * (80 * MIB)), Content_Encoding="gzip"),
        # By the ratio, where only part of it has come.
        "413 .*(max-json-mib|expected at most 200 for each)",
    ),
    "JSON of 8 MiB of floats": (
        lambda: posted("fp32", tensor("FP32", [FLOATS], floats())), "200",
    ),
    "JSON of 8 MiB of nested floats": (
        lambda: posted(
            "rows", tensor("FP32", [FLOATS // 4, 4], np.reshape(floats(), (-1, 4)).tolist())
        ),
        "400 .*expected 1 to 4 rows",
    ),
    "JSON of 8 MiB of numbers for four": (
        lambda: posted("fp32", tensor("FP32", [4], [0] * (2 * MIB))), "400 .*got more",
    ),
    "JSON of 8 MiB of lists": (
        lambda: posted("fp32", b'{"inputs": [' + b"[]," * 2_500_000 + b"[]]}"), "400 .*beside",
    ),
    "JSON of 8 MiB of blanks": (
        lambda: posted("fp32", b" " * (8 * MIB)), "400 .*beside",
    ),
    "JSON of 8 MiB of escapes": (
        lambda: posted("fp32", b'{"a": "' + b"\\u0041" * 1_300_000 + b'"}'), "400 .*beside",
    ),
    "JSON with 8 MiB of empty texts": (
        lambda: posted("bytes", tensor("BYTES", [4], [""] * 2_000_000)), "400 .*beside",
    ),
    "BYTES of empty elements, REST": (
        lambda: binary("BYTES", [1], bytes(4 * (EMPTIES - 100))), "400 .*got more",
    ),
    "BYTES of empty elements and their shape, REST": (
        lambda: binary("BYTES", [EMPTIES - 100], bytes(4 * (EMPTIES - 100))), "400 .*at most 65536",
    ),
    "BYTES of empty elements": (
        lambda: called(message("BYTES", [1], bytes(4 * (EMPTIES - 100))).SerializeToString()),
        "INVALID_ARGUMENT .*got more",
    ),
    "BYTES of the most elements": (
        lambda: called(message("BYTES", [1 << 16], TEXTS).SerializeToString()), "OK",
    ),
    "BYTES of the most elements, REST": (
        lambda: binary("BYTES", [1 << 16], TEXTS), "200",
    ),
    "contents of empty elements": (
        lambda: called(with_contents("BYTES", [1], b"\x42\x00" * (15 * MIB))),
        "INVALID_ARGUMENT .*got more",
    ),
    "contents of floats": (
        lambda: called(
            with_contents("FP32", [MIB], pb.InferTensorContents(
                fp32_contents=np.zeros(MIB, np.float32)).SerializeToString())
        ),
        "OK",
    ),
    "contents of integers": (
        lambda: called(
            with_contents("INT64", [MIB], pb.InferTensorContents(
                int64_contents=np.arange(MIB) * 977).SerializeToString())
        ),
        "OK",
    ),
    "the same output 20,000 times": (
        lambda: called(same_output(20_000)), "INVALID_ARGUMENT .*at most 1024 fields",
    ),
    "the same output twice": (
        lambda: called(same_output(2)), "INVALID_ARGUMENT .*asked for twice",
    ),
    "the same output 20,000 times, REST": (
        lambda: posted("fp32", json.dumps({
            "inputs": [{"name": "in_FP32", "datatype": "FP32", "shape": [1], "data": [1]}],
            "outputs": [{"name": "out_FP32"}] * 20_000,
        }).encode()),
        "400 .*beside",
    ),
    "a million unknown fields": (
        lambda: called(b"\x48\x05" * 1_000_000), "INVALID_ARGUMENT .*at most 1024 fields",
    ),
    "16 million unknown fields": (
        lambda: called(b"\x48\x05" * (15 * MIB)), "INVALID_ARGUMENT .*at most 1024 fields",
    ),
    "100,000 parameters": (
        lambda: called(parameters(100_000)), "INVALID_ARGUMENT .*at most 1024 fields",
    ),
    "shape of a million dimensions": (
        lambda: called(message("FP32", [1] * MIB, bytes(16)).SerializeToString()),
        "INVALID_ARGUMENT .*beside its tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_event_loop_answers_beside(identity_server: ServerProcess, name: str) -> None:
    made, said = ATTACKS[name]
    attack = made()
    for last in (False, False, True):
        with LoopProbe(identity_server) as idle:
            time.sleep(0.2)  # the pauses that other work on this machine makes meanwhile
        with LoopProbe(identity_server) as probe:
            for _ in range(2):
                found = attack(identity_server)
                assert re.match(said, found), found
        longest, usual = probe.pauses.longest, idle.pauses.longest + probe.pauses.jitter
        if longest < PAUSE + usual:
            return
        assert not last, f"the event loop paused for {longest:.3f} s, usually for {usual:.3f} s"
