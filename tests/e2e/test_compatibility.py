"""Every public method of tritonclient's four clients, against a real server process: what it
answers is what NVIDIA Triton documents. How Triton itself answers the same calls is in
tests/peers."""

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from tests.e2e.documented_answers import EXPECTED, LOGITS
from tests.support.process import TOKEN, ServerProcess, token_flags
from tests.support.protocol_calls import (
    CALLS,
    GAIN,
    IDLE,
    REGION_KEY,
    SERVED,
    SPARE,
    images,
)
from tests.support.published import publish
from tests.support.triton_clients import (
    WIRES,
    Failed,
    Session,
    outcome,
    plain,
    public_methods,
)

# A server with gRPC's own settings says goodbye at the third ping; the library sends one a second.
PINGS_SECONDS = 4.0
# How a client is admin. tritonclient reaches no Unix socket over HTTP.
WAYS = [(wire, "token") for wire in WIRES] + [("grpc", "socket"), ("grpc.aio", "socket")]
METHODS = [(*way, method) for way in WAYS for method in sorted(public_methods(way[0]))]


@pytest.fixture(scope="module")
def explicit_server(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[ServerProcess]:
    """A server of SERVED and SPARE that loads and unloads by call."""
    repository = tmp_path_factory.mktemp("compatibility")
    for name in (SERVED, SPARE, IDLE):
        publish(repository, name, gain=GAIN)
    flags = ("--model-control", "explicit", *token_flags(repository))
    server = ServerProcess(repository, *flags, cache=cache)
    with closing(Session("grpc", server.admin, server.http)) as session:
        for name in (SERVED, SPARE):
            session.call("load_model", name)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def sessions(explicit_server: ServerProcess) -> Iterator[Callable[..., Session]]:
    """One session a wire and a way to be admin."""
    opened: dict[tuple[str, str], Session] = {}

    def session(wire: str, way: str = "token") -> Session:
        if (wire, way) not in opened:
            by_token = way == "token"
            url = explicit_server.url if by_token else explicit_server.admin
            opened[wire, way] = Session(wire, url, explicit_server.http, TOKEN if by_token else "")
        return opened[wire, way]

    yield session
    for one in opened.values():
        one.close()


@pytest.mark.parametrize(("wire", "way", "method"), METHODS)
def test_method_answers_as_documented(
    sessions: Callable[..., Session], wire: str, way: str, method: str
) -> None:
    assert method in CALLS, f"{wire}: {method} has no case"
    session = sessions(wire, way)
    for about, call in CALLS[method].items():
        found = outcome(call, session)
        expected = EXPECTED[method][about]
        if hasattr(expected, "check"):
            expected.check(session, method, found)
        elif callable(expected):
            expected(session, found)
        else:
            assert found == expected, about


def test_every_call_has_its_expected_answer() -> None:
    assert {m: set(calls) for m, calls in CALLS.items()} == {
        m: set(answers) for m, answers in EXPECTED.items()
    }


# What perf_analyzer and Model Analyzer do: describe the model, read its statistics, load it, read
# them again, and take the difference.


def image_input(session: Session, rows: int) -> Any:
    return session.input("image", images(rows), "UINT8")


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_statistics_before_and_after_differ_by_what_ran_between(
    sessions: Callable[..., Session], wire: str
) -> None:
    session = sessions(wire)

    def read() -> dict[str, Any]:
        found: dict[str, Any] = plain(session.call("get_inference_statistics", SERVED, "1"))
        [statistics] = found["model_stats"]
        return dict(statistics)

    assert session.call("is_server_ready")
    assert "statistics" in plain(session.call("get_server_metadata"))["extensions"]
    metadata = plain(session.call("get_model_metadata", SERVED))
    [tensor] = metadata["inputs"]
    config = plain(session.call("get_model_config", SERVED))
    config = config.get("config", config)
    assert config["max_batch_size"] == 8
    assert tensor["shape"][1:] == config["input"][0]["dims"]

    before = read()
    began = int(time.time() * 1000)
    for rows in (1, 1, 1, 4, 4):
        session.call("infer", SERVED, [image_input(session, rows)])
    for _ in range(2):
        with pytest.raises(InferenceServerException):
            session.call("infer", SERVED, [image_input(session, 9)])
    after = read()

    def grown(*path: str) -> int:
        old: Any = before
        new: Any = after
        for key in path:
            old, new = old[key], new[key]
        return int(new) - int(old)

    assert grown("inference_count") == 11
    assert grown("execution_count") == 5
    assert grown("inference_stats", "success", "count") == 5
    assert grown("inference_stats", "fail", "count") == 2
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert grown("inference_stats", stage, "count") == 5
    # A call takes at least as long as its stages.
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert grown("inference_stats", "success", "ns") >= sum(
        grown("inference_stats", stage, "ns") for stage in stages
    )
    assert began <= after["last_inference"] <= time.time() * 1000
    assert batches(after) - batches(before) == Counter({1: 3, 4: 2})


def batches(statistics: dict[str, Any]) -> Counter[int]:
    """How many batches of each size ran."""
    return Counter(
        {line["batch_size"]: line["compute_infer"]["count"] for line in statistics["batch_stats"]}
    )


# What the clients say beside tensors.


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize(
    ("named", "code", "said"),
    [
        ({"timeout": 1}, {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "429", "504"}, ""),
        ({"timeout": -1}, {"INVALID_ARGUMENT", "400"}, "timeout"),
    ],
)
def test_timeout_is_kept_to_and_checked(
    sessions: Callable[..., Session], wire: str, named: dict[str, int], code: set[str], said: str
) -> None:
    session = sessions(wire)
    found = outcome(session.call, "infer", SERVED, [image_input(session, 1)], **named)
    assert isinstance(found, Failed), found
    assert found.status in code
    assert said in found.message


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize("priority", [1, 2, 3, 99])
def test_every_priority_is_answered(
    sessions: Callable[..., Session], wire: str, priority: int
) -> None:
    session = sessions(wire)
    result = session.call("infer", SERVED, [image_input(session, 2)], priority=priority)
    assert result.as_numpy("logits").tolist() == LOGITS


def test_pings_of_an_idle_client_are_not_refused(explicit_server: ServerProcess) -> None:
    """A server that counts them sends the client away. The channel's options are those that
    tritonclient makes of its KeepAliveOptions."""
    options = tritonclient.grpc.KeepAliveOptions(
        keepalive_time_ms=10,
        keepalive_timeout_ms=20_000,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
    )
    states: queue.Queue[grpc.ChannelConnectivity] = queue.Queue()
    with grpc.insecure_channel(
        explicit_server.url,
        options=[
            ("grpc.keepalive_time_ms", options.keepalive_time_ms),
            ("grpc.keepalive_timeout_ms", options.keepalive_timeout_ms),
            ("grpc.keepalive_permit_without_calls", options.keepalive_permit_without_calls),
            ("grpc.http2.max_pings_without_data", options.http2_max_pings_without_data),
        ],
    ) as channel:
        channel.subscribe(states.put, try_to_connect=True)
        while states.get(timeout=10) is not grpc.ChannelConnectivity.READY:
            pass
        with pytest.raises(queue.Empty):
            states.get(timeout=PINGS_SECONDS)  # it stays connected
    with closing(
        tritonclient.grpc.InferenceServerClient(explicit_server.url, keepalive_options=options)
    ) as client:
        assert client.is_server_live()


def test_outputs_in_shared_memory_and_on_the_wire_do_not_mix_up(server: ServerProcess) -> None:
    """Clients find an output's data by its place among the outputs."""
    mask_bytes = 2 * 8 * 8
    handle = shm.create_shared_memory_region("mask", REGION_KEY, mask_bytes)
    client = tritonclient.grpc.InferenceServerClient(server.admin)
    try:
        client.register_system_shared_memory("mask", REGION_KEY, mask_bytes)
        tensor = tritonclient.grpc.InferInput("image", [2, 8, 8, 3], "UINT8")
        tensor.set_data_from_numpy(images())
        there = tritonclient.grpc.InferRequestedOutput("mask")
        there.set_shared_memory("mask", mask_bytes)
        here = tritonclient.grpc.InferRequestedOutput("confidence")
        result = client.infer("regions", [tensor], outputs=[there, here])
        assert (result.as_numpy("confidence") == 160).all()
        mask = shm.get_contents_as_numpy(handle, np.uint8, [2, 8, 8])
        assert [mask[0].max(), mask[1].min()] == [0, 1]
    finally:
        client.unregister_system_shared_memory("mask")
        client.close()
        shm.destroy_shared_memory_region(handle)
