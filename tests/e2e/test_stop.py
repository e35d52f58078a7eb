"""SIGTERM while callers stall: the server ends within drain_seconds."""

import contextlib
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from protos.gen import grpc_service_pb2 as pb
from protos.gen import grpc_service_pb2_grpc as pb_grpc
from tests.support.identity import publish_identity
from tests.support.process import ServerProcess

StartServer = Callable[..., ServerProcess]
DRAIN_SECONDS = 2.0
# From the end of the drain to the end of a process on a busy machine.
SLACK_SECONDS = 3.0
LARGE = 24 << 20
HEAD = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: localhost\r\n"


def connect(url: str) -> socket.socket:
    """A connection that reads nothing by itself."""
    found = urlsplit(url)
    assert found.hostname is not None
    connection = socket.socket()
    # Small, so that an answer of 32 MB waits in the server.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect((found.hostname, found.port or 80))
    return connection


def post(body: bytes, length: int, headers: str = "") -> bytes:
    return HEAD + f"Content-Length: {length}\r\n{headers}\r\n".encode() + body


def half_a_body(server: ServerProcess) -> socket.socket:
    connection = connect(server.http)
    connection.sendall(post(b'{"inputs": [', 1000))
    return connection


def half_a_body_in_chunks(server: ServerProcess) -> socket.socket:
    connection = connect(server.http)
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{'inp")
    return connection


def half_a_head(server: ServerProcess) -> socket.socket:
    connection = connect(server.http)
    connection.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost:")
    return connection


def nothing_sent(server: ServerProcess) -> socket.socket:
    return connect(server.http)


def kept_alive(server: ServerProcess) -> socket.socket:
    connection = connect(server.http)
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    return connection


def large_answer_unread(server: ServerProcess) -> socket.socket:
    connection = connect(server.http)
    described = {
        "inputs": [
            {
                "name": "in_UINT8",
                "datatype": "UINT8",
                "shape": [LARGE],
                "parameters": {"binary_data_size": LARGE},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(described).encode()
    length = f"Inference-Header-Content-Length: {len(head)}\r\n"
    connection.sendall(post(head + bytes(LARGE), len(head) + LARGE, length))
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def metrics_idle(server: ServerProcess) -> socket.socket:
    connection = connect(server.metrics_url)
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def metrics_half_a_body(server: ServerProcess) -> socket.socket:
    connection = connect(server.metrics_url)
    connection.sendall(
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nhalf"
    )
    return connection


@contextlib.contextmanager
def stream_unread(server: ServerProcess) -> Iterator[None]:
    """A gRPC stream whose caller takes none of its large answers."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.url, options=options) as channel:
        request = pb.ModelInferRequest(model_name="echo")
        request.inputs.add(name="in_UINT8", datatype="UINT8", shape=[LARGE // 4])
        request.raw_input_contents.append(np.zeros(LARGE // 4, np.uint8).tobytes())
        answers = pb_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            iter([request] * 8), timeout=60
        )
        next(answers)
        yield
        with contextlib.suppress(grpc.RpcError):
            list(answers)


STALLS: dict[str, list[Callable[[ServerProcess], contextlib.AbstractContextManager[object]]]] = {
    "half a body": [half_a_body, half_a_body_in_chunks],
    "an answer unread": [large_answer_unread],
    "a stream unread": [stream_unread],
    "everything": [
        *(half_a_body, half_a_body_in_chunks, half_a_head, nothing_sent, kept_alive),
        *(large_answer_unread, metrics_idle, metrics_half_a_body, stream_unread),
    ],
}


@pytest.mark.parametrize("stalls", STALLS.values(), ids=list(STALLS))
def test_sigterm_ends_the_server_in_time_whatever_callers_leave_undone(
    stalls: list[Callable[[ServerProcess], contextlib.AbstractContextManager[object]]],
    tmp_path: Path,
    start_server: StartServer,
) -> None:
    publish_identity(tmp_path, "echo", ["UINT8"])
    server = start_server(
        tmp_path,
        "--allow-ungated",
        "--drain-seconds",
        str(DRAIN_SECONDS),
        "--engine",
        "onnxruntime",
    ).wait_ready()
    with contextlib.ExitStack() as stack:
        for stall in stalls:
            stack.enter_context(stall(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DRAIN_SECONDS + SLACK_SECONDS) == 0
    server.wait()
    server.wait_for_log("stopped")


def publish_counter(repository: Path) -> None:
    """A model that counts to its input, INT64 [1]: large numbers take as long as one wants."""
    scalar = helper.make_tensor_value_info
    number = TensorProto.INT64
    step = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["goes_on_still"]),
            helper.make_node("Add", ["so_far", "one"], ["further"]),
        ],
        "step",
        [
            scalar("index", number, []),
            scalar("goes_on", TensorProto.BOOL, []),
            scalar("so_far", number, [1]),
        ],
        [scalar("goes_on_still", TensorProto.BOOL, []), scalar("further", number, [1])],
    )
    nodes = [
        helper.make_node("Squeeze", ["number"], ["times"]),
        helper.make_node("Loop", ["times", "", "zero"], ["counted"], body=step),
    ]
    graph = helper.make_graph(
        nodes,
        "counter",
        [scalar("number", number, [1])],
        [scalar("counted", number, [1])],
        [helper.make_tensor("zero", number, [1], [0]), helper.make_tensor("one", number, [1], [1])],
    )
    folder = repository / "counter" / "1"
    folder.mkdir(parents=True)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    (repository / "counter" / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx"\nmax_batch_size: 0\n'
        'input { name: "number" data_type: TYPE_INT64 dims: [1] }\n'
        'output { name: "counted" data_type: TYPE_INT64 dims: [1] }\n'
    )


def test_sigterm_ends_the_server_in_time_while_an_engine_works(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish_counter(tmp_path)
    server = start_server(
        tmp_path, "--allow-ungated", "--drain-seconds", "1", "--engine", "onnxruntime"
    ).wait_ready()
    tensor = {"name": "number", "datatype": "INT64", "shape": [1], "data": [1 << 40]}
    body = json.dumps({"inputs": [tensor]}).encode()
    url = f"{server.http}/v2/models/counter/infer"
    with connect(url) as connection:
        connection.sendall(post(body, len(body)).replace(b"echo", b"counter"))
        while not server.metric('convserve_memory_held_bytes{use="message"}'):
            time.sleep(0.02)  # between two looks at a condition that no event tells of
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(1 + SLACK_SECONDS) == 1
    server.wait()
    server.wait_for_log("ended with work under way")


# Counts for about 50 ms, so that calls wait for one another.
SLOW = 1 << 17


def ask_counter(server: ServerProcess, stack: contextlib.ExitStack) -> list[Future[str]]:
    """30 calls of the counter by gRPC and 10 by REST, which take seconds together; what ended each
    of them."""
    channel = stack.enter_context(grpc.insecure_channel(server.url))
    infer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
    request = pb.ModelInferRequest(model_name="counter")
    request.inputs.add(name="number", datatype="INT64", shape=[1])
    request.raw_input_contents.append(np.array([SLOW]).tobytes())
    tensor = {"name": "number", "datatype": "INT64", "shape": [1], "data": [SLOW]}
    body = json.dumps({"inputs": [tensor]}).encode()

    def by_grpc() -> str:
        try:
            infer(request)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def by_rest() -> str:
        with connect(f"{server.http}/v2/models/counter/infer") as connection:
            connection.settimeout(60)
            connection.sendall(post(body, len(body)).replace(b"echo", b"counter"))
            return connection.recv(12).decode()

    threads = ThreadPoolExecutor(40)
    stack.callback(threads.shutdown)
    asked = [threads.submit(by_grpc) for _ in range(30)]
    asked += [threads.submit(by_rest) for _ in range(10)]
    while server.metric('convserve_queue_depth{model="counter",version="1"}') < 20:
        time.sleep(0.02)  # between two looks at a condition that no event tells of
    return asked


def test_every_caller_gets_an_answer_from_a_server_that_has_no_time_to_drain(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish_counter(tmp_path)
    flags = ("--allow-ungated", "--engine", "onnxruntime", "--drain-seconds", "0")
    server = start_server(tmp_path, *flags).wait_ready()
    with contextlib.ExitStack() as stack:
        asked = ask_counter(server, stack)
        server.process.send_signal(signal.SIGTERM)
        ends = Counter(one.result(timeout=20) for one in asked)
        assert {"UNAVAILABLE", "HTTP/1.1 503"} <= set(ends)
        for answered in ("OK", "UNAVAILABLE", "HTTP/1.1 200", "HTTP/1.1 503"):
            del ends[answered]
        # The one in the engine, and any that a busy machine has not come to, is cancelled.
        assert ends.total() < 10, ends
    server.wait()


def test_every_caller_gets_an_answer_from_a_model_that_is_unloaded_without_a_drain(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish_counter(tmp_path)
    flags = ("--allow-ungated", "--engine", "onnxruntime", "--drain-seconds", "0")
    flags += ("--model-control", "explicit", "--admin-open", "repository")
    server = start_server(tmp_path, *flags)
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(server.url))
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="counter"))
        asked = ask_counter(server, stack)
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="counter"))
        ends = {one.result(timeout=20) for one in asked}
        assert ends <= {"OK", "UNAVAILABLE", "HTTP/1.1 200", "HTTP/1.1 503"}
        assert "UNAVAILABLE" in ends
        assert server.metric('convserve_memory_held_bytes{use="message"}') == 0
