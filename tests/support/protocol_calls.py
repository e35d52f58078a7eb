"""Calls of every public method of tritonclient, for any server of SERVED, SPARE and IDLE.

`CALLS` holds for each method some calls by what they are about, made in their order. What the
answers should be is not said here: one test holds them against what is documented, another against
those of another server.
"""

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import InferenceServerClientPlugin

from tests.support.triton_clients import Answers, Failed, Session, outcome, plain

# A classifier of `tests.support.published` which every call may use, one that is loaded too, to be
# loaded and unloaded, and one that only lies in the repository.
SERVED, SPARE, IDLE = "colours", "spare", "idle"
# Its logits are the channel means times 1/16: exact in float32, whatever the order of summing.
GAIN = 255 / 16
# Objects of shared memory belong to the machine: two runs of the tests must not meet.
REGION_KEY, OTHER_KEY = (f"/convserve_calls_{os.getpid()}_{number}" for number in (1, 2))
# Two pages: servers may map regions only from the beginning of one.
PAGE = 4096
UNLOAD_SECONDS = 10.0
REGION_BYTES = 2 * PAGE

Call = Callable[[Session], Any]


def images(rows: int = 2) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [rows, 8, 8, 3]; row i is brightest in channel i % 3."""
    pixels = np.full((rows, 8, 8, 3), 16, np.uint8)
    for row in range(rows):
        pixels[row, ..., row % 3] = 160
        pixels[row, ..., (row + 1) % 3] = 80
    return pixels


def _image(session: Session, rows: int = 2, name: str = "image") -> Any:
    return session.input(name, images(rows), "UINT8")


def _wanted(session: Session, name: str = "logits", **named: Any) -> Any:
    return session.triton.InferRequestedOutput(name, **named)


# Arguments of one inference: positional, then named.
_INFERENCES: dict[str, Callable[[Session], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "two rows": lambda s: ((SERVED, [_image(s)]), {}),
    "an id": lambda s: ((SERVED, [_image(s)]), {"request_id": "abc-1"}),
    "a version": lambda s: ((SERVED, [_image(s)]), {"model_version": "1"}),
    "an output by name": lambda s: ((SERVED, [_image(s)]), {"outputs": [_wanted(s)]}),
    "two best classes": lambda s: (
        (SERVED, [_image(s)]),
        {"outputs": [_wanted(s, class_count=2)]},
    ),
    "more classes than there are": lambda s: (
        (SERVED, [_image(s)]),
        {"outputs": [_wanted(s, class_count=9)]},
    ),
    "a priority": lambda s: ((SERVED, [_image(s)]), {"priority": 1}),
    "a long timeout": lambda s: ((SERVED, [_image(s)]), {"timeout": 60_000_000}),
    "a parameter of one's own": lambda s: ((SERVED, [_image(s)]), {"parameters": {"tint": "warm"}}),
    "a sequence": lambda s: (
        (SERVED, [_image(s)]),
        {"sequence_id": 7, "sequence_start": True, "sequence_end": True},
    ),
    "an unknown model": lambda s: (("nothing", [_image(s)]), {}),
    "an unknown version": lambda s: ((SERVED, [_image(s)]), {"model_version": "9"}),
    "a version that is no number": lambda s: ((SERVED, [_image(s)]), {"model_version": "one"}),
    "no input": lambda s: ((SERVED, []), {}),
    "an unknown input": lambda s: ((SERVED, [_image(s, name="picture")]), {}),
    "an input too many": lambda s: ((SERVED, [_image(s), _image(s, name="picture")]), {}),
    "an input twice": lambda s: ((SERVED, [_image(s), _image(s)]), {}),
    "another datatype": lambda s: (
        (SERVED, [s.input("image", images().astype(np.float32), "FP32")]),
        {},
    ),
    "another shape": lambda s: ((SERVED, [s.input("image", images()[:, :4], "UINT8")]), {}),
    "a dimension too few": lambda s: ((SERVED, [s.input("image", images()[0], "UINT8")]), {}),
    "more rows than max_batch_size": lambda s: ((SERVED, [_image(s, 9)]), {}),
    "no rows": lambda s: ((SERVED, [s.input("image", images(0), "UINT8")]), {}),
    "an unknown output": lambda s: ((SERVED, [_image(s)]), {"outputs": [_wanted(s, "scores")]}),
}


def _inferences(method: str) -> dict[str, Call]:
    def made_by(arguments: Callable[[Session], tuple[tuple[Any, ...], dict[str, Any]]]) -> Call:
        def call(session: Session) -> Any:
            positional, named = arguments(session)
            return session.infer(method, *positional, **named)

        return call

    return {about: made_by(arguments) for about, arguments in _INFERENCES.items()}


class _CountsCalls(InferenceServerClientPlugin):  # type: ignore[misc]
    """Sees the headers of every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, request: Any) -> None:
        self.calls += 1
        request.headers["x-request-tag"] = "convserve"


def _plugin_is_called(session: Session) -> dict[str, Any]:
    plugin = _CountsCalls()
    session.client.register_plugin(plugin)
    registered = session.client.plugin() is plugin
    live = session.call("is_server_live")
    session.client.unregister_plugin()
    session.call("is_server_live")
    return {"registered": registered, "live": live, "calls": plugin.calls}


def _stream(session: Session) -> Any:
    """Five calls on one stream, the third of which fails: what each came to, in order."""
    answers = Answers()
    session.call("start_stream", answers.callback)
    for index in range(5):
        inputs = [_image(session, name="picture" if index == 2 else "image")]
        session.call("async_stream_infer", SERVED, inputs, request_id=str(index))
    outcomes = [outcome(answers.take) for _ in range(5)]
    session.call("stop_stream")
    return ["failed" if isinstance(found, Failed) else found["id"] for found in outcomes]


def _posted_by_hand(session: Session) -> Any:
    client = session.triton.InferenceServerClient
    body, json_size = client.generate_request_body([_image(session)], request_id="by hand")
    headers = {"Inference-Header-Content-Length": str(json_size)}
    request = urllib.request.Request(
        f"{session.http_url}/v2/models/{SERVED}/infer", data=body, headers=headers
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        length = response.headers["Inference-Header-Content-Length"]
        return client.parse_response_body(response.read(), header_length=int(length))


def _with_region(session: Session, run: Callable[[Any], Any]) -> Any:
    """Calls `run` with the first of two objects of system shared memory, and unregisters every
    region after."""
    with ExitStack() as stack:
        first, _ = (_made(stack, key) for key in (REGION_KEY, OTHER_KEY))
        stack.callback(session.call, "unregister_system_shared_memory")
        return run(first)


def _made(stack: ExitStack, key: str) -> Any:
    handle = shm.create_shared_memory_region(key, key, REGION_BYTES)
    stack.callback(shm.destroy_shared_memory_region, handle)
    return handle


def _register(session: Session, name: str = "region", **named: Any) -> Any:
    size = named.pop("byte_size", REGION_BYTES)
    key = named.pop("key", REGION_KEY)
    return session.call("register_system_shared_memory", name, key, size, **named)


def _through_memory(session: Session) -> Any:
    def run(handle: Any) -> Any:
        picture = images(1)
        shm.set_shared_memory_region(handle, [picture])
        _register(session)
        tensor = session.triton.InferInput("image", list(picture.shape), "UINT8")
        tensor.set_shared_memory("region", picture.nbytes)
        wanted = _wanted(session)
        wanted.set_shared_memory("region", 12, offset=picture.nbytes)
        answer = session.call("infer", SERVED, [tensor], outputs=[wanted])
        found = shm.get_contents_as_numpy(handle, np.float32, [1, 3], offset=picture.nbytes)
        return {"answer": answer.get_response(), "memory": found.tolist()}

    return _with_region(session, run)


def _registered(*regions: Mapping[str, Any]) -> Call:
    """Registers regions of one object, one after the other: what is registered then."""

    def call(session: Session) -> Any:
        def run(_: Any) -> Any:
            for region in regions:
                _register(session, **region)
            return session.call("get_system_shared_memory_status")

        return _with_region(session, run)

    return call


def _forgotten(*names: str) -> Call:
    """Registers two regions and unregisters some: what is left."""

    def call(session: Session) -> Any:
        def run(_: Any) -> Any:
            _register(session, "one")
            _register(session, "two", key=OTHER_KEY)
            for name in names:
                session.call("unregister_system_shared_memory", name)
            return session.call("get_system_shared_memory_status")

        return _with_region(session, run)

    return call


def _status_of_one(name: str) -> Call:
    def call(session: Session) -> Any:
        def run(_: Any) -> Any:
            _register(session, "one", byte_size=8, offset=PAGE)
            return session.call("get_system_shared_memory_status", name)

        return _with_region(session, run)

    return call


def _method(name: str, *arguments: Any, **named: Any) -> Call:
    return lambda session: session.call(name, *arguments, **named)


def _states(session: Session, model: str) -> list[str]:
    """The states of a model's lines in the repository's index."""
    index = plain(session.call("get_model_repository_index"))
    lines = index["models"] if session.over_grpc else index
    return [line.get("state", "") for line in lines if line["name"] == model]


def _spare_after(about_spare: Call) -> Call:
    """Makes a call about SPARE: whether it is ready then, and its states in the index."""

    def call(session: Session) -> Any:
        about_spare(session)
        end = time.monotonic() + UNLOAD_SECONDS
        while "UNLOADING" in (states := _states(session, SPARE)):
            assert time.monotonic() < end, states
            time.sleep(0.02)  # between two looks at a condition that no event tells of
        return {"ready": session.call("is_model_ready", SPARE), "states": states}

    return call


def _narrower(session: Session) -> Any:
    """Loads SPARE with a smaller max_batch_size sent along: what its config says then."""
    found = plain(session.call("get_model_config", SERVED))
    config = found["config"] if session.over_grpc else found
    sent = {
        "backend": config.get("backend", ""),
        "max_batch_size": 3,
        "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": [8, 8, 3]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [3]}],
    }
    session.call("load_model", SPARE, config=json.dumps(sent))
    changed = plain(session.call("get_model_config", SPARE))
    return (changed["config"] if session.over_grpc else changed)["max_batch_size"]


def _statistics_of(*arguments: str) -> Call:
    """Statistics without what no two runs share: times and counts are given by their type."""

    def call(session: Session) -> Any:
        session.call("infer", SERVED, [_image(session)])
        return _types(plain(session.call("get_inference_statistics", *arguments)))

    return call


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_types(item) for item in value[:1]]
    return value if isinstance(value, str) else type(value).__name__


def _closed(session: Session) -> str:
    other = Session(session.wire, session.grpc_url, session.http_url, session.token)
    other.call("is_server_live")
    other.call("close")
    other.close()
    return "closed"


CALLS: dict[str, dict[str, Call]] = {
    "is_server_live": {"the server": _method("is_server_live")},
    "is_server_ready": {"the server": _method("is_server_ready")},
    "is_model_ready": {
        "a model": _method("is_model_ready", SERVED),
        "a version": _method("is_model_ready", SERVED, "1"),
        "an unknown version": _method("is_model_ready", SERVED, "9"),
        "an unknown model": _method("is_model_ready", "nothing"),
    },
    "get_server_metadata": {"the server": _method("get_server_metadata")},
    "get_model_metadata": {
        "a model": _method("get_model_metadata", SERVED),
        "a version": _method("get_model_metadata", SERVED, "1"),
        "an unknown version": _method("get_model_metadata", SERVED, "9"),
        "an unknown model": _method("get_model_metadata", "nothing"),
    },
    "get_model_config": {
        "a model": _method("get_model_config", SERVED),
        "an unknown version": _method("get_model_config", SERVED, "9"),
        "an unknown model": _method("get_model_config", "nothing"),
    },
    "get_model_repository_index": {
        "a model that serves": lambda session: _states(session, SERVED),
        "a model that was never loaded": lambda session: _states(session, IDLE),
    },
    "get_inference_statistics": {
        "a model": _statistics_of(SERVED),
        "a version": _statistics_of(SERVED, "1"),
        "all": _statistics_of(),
        "an unknown version": _method("get_inference_statistics", SERVED, "9"),
        "an unknown model": _method("get_inference_statistics", "nothing"),
    },
    "load_model": {
        "a model": _spare_after(_method("load_model", SPARE)),
        "again": _spare_after(_method("load_model", SPARE)),
        "another config": _narrower,
        "a config that is not JSON": _method("load_model", SPARE, config="{"),
        "an unknown model": _method("load_model", "nothing"),
    },
    "unload_model": {
        "a model": _spare_after(_method("unload_model", SPARE)),
        "again": _spare_after(_method("unload_model", SPARE)),
        "with dependents": _method("unload_model", SPARE, unload_dependents=True),
        "an unknown model": _method("unload_model", "nothing"),
        "loaded again": _spare_after(_method("load_model", SPARE)),
    },
    "get_trace_settings": {
        "the server": _method("get_trace_settings"),
        "a model": _method("get_trace_settings", SERVED),
        "an unknown model": _method("get_trace_settings", "nothing"),
    },
    "update_trace_settings": {
        "two settings": _method(
            "update_trace_settings", settings={"trace_rate": "500", "trace_count": "5"}
        ),
        "a level without a file": _method(
            "update_trace_settings", settings={"trace_level": ["TIMESTAMPS"]}
        ),
        "of a model": _method("update_trace_settings", SERVED, settings={"trace_rate": "250"}),
        "back to the server's": _method(
            "update_trace_settings", SERVED, settings={"trace_rate": None}
        ),
        "back to the defaults": _method(
            "update_trace_settings", settings={"trace_rate": None, "trace_count": None}
        ),
        "a rate that is no number": _method(
            "update_trace_settings", settings={"trace_rate": "often"}
        ),
        "an unknown level": _method("update_trace_settings", settings={"trace_level": ["ALL"]}),
        "an unknown setting": _method("update_trace_settings", settings={"trace_colour": "1"}),
    },
    "get_log_settings": {"the server": _method("get_log_settings")},
    "update_log_settings": {
        "the verbose level": _method("update_log_settings", {"log_verbose_level": 1}),
        "off and on again": _method("update_log_settings", {"log_info": False}),
        "back": _method("update_log_settings", {"log_info": True, "log_verbose_level": 0}),
        "another format": _method("update_log_settings", {"log_format": "ISO8601"}),
        "the default format": _method("update_log_settings", {"log_format": "default"}),
        "an unknown format": _method("update_log_settings", {"log_format": "verse"}),
        "a wrong type": _method("update_log_settings", {"log_info": 1}),
        "an unknown setting": _method("update_log_settings", {"log_colour": True}),
    },
    "register_system_shared_memory": {
        "a region": _registered({}),
        "a part of an object": _registered({"byte_size": 8, "offset": PAGE}),
        "a name in use": _registered({}, {}),
        "past the end": _registered({"byte_size": REGION_BYTES + (1 << 20)}),
        "an object that is not there": _registered({"key": "/convserve_none"}),
        "tensors": _through_memory,
    },
    "get_system_shared_memory_status": {
        "none": _method("get_system_shared_memory_status"),
        "one": _status_of_one("one"),
        "an unknown region": _status_of_one("two"),
    },
    "unregister_system_shared_memory": {
        "one": _forgotten("one"),
        "all": _forgotten(""),
        "an unknown region": _forgotten("three"),
    },
    "get_cuda_shared_memory_status": {
        "none": _method("get_cuda_shared_memory_status"),
        "an unknown region": _method("get_cuda_shared_memory_status", "region"),
    },
    "register_cuda_shared_memory": {
        "a region": _method("register_cuda_shared_memory", "region", b"aGFuZGxl", 0, 64),
    },
    "unregister_cuda_shared_memory": {
        "all": _method("unregister_cuda_shared_memory"),
        "an unknown region": _method("unregister_cuda_shared_memory", "region"),
    },
    "register_plugin": {"headers of a call": _plugin_is_called},
    "plugin": {"headers of a call": _plugin_is_called},
    "unregister_plugin": {"headers of a call": _plugin_is_called},
    "generate_request_body": {"posted by hand": _posted_by_hand},
    "parse_response_body": {"posted by hand": _posted_by_hand},
    "start_stream": {"five calls, one fails": _stream},
    "stop_stream": {"five calls, one fails": _stream},
    "close": {"a client": _closed},
    **{
        method: _inferences(method)
        for method in ("infer", "async_infer", "async_stream_infer", "stream_infer")
    },
}
