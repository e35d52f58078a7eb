"""tritonclient's four clients made alike: calls block, and answers are plain values."""

import asyncio
import contextlib
import inspect
import queue
from collections.abc import AsyncIterator, Callable, Mapping, MutableSequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from google.protobuf.message import Message
from tritonclient.utils import InferenceServerException

WIRES: dict[str, ModuleType] = {
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
}
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Failed:
    """A call that failed: name of the gRPC code, or the HTTP status ("" where the client itself
    refused it or the wire has none), and what was said."""

    status: str
    message: str


class Session:
    """One client of one server. `call` runs a method of the client, whichever kind it is, with
    the admin token where there is one."""

    def __init__(self, wire: str, grpc_url: str, http_url: str, token: str = "") -> None:
        self.wire = wire
        self.token = token
        self.triton = WIRES[wire]
        self.over_grpc = wire.startswith("grpc")
        self.grpc_url = grpc_url
        self.http_url = http_url
        self._runner = asyncio.Runner() if wire.endswith("aio") else None
        url = grpc_url if self.over_grpc else http_url.removeprefix("http://")

        async def connect() -> Any:
            return self.triton.InferenceServerClient(url)

        self.client: Any = (
            self._runner.run(connect()) if self._runner else self.triton.InferenceServerClient(url)
        )

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What the method returns, awaited where it has to be."""
        made = getattr(self.client, method)
        if self.token and "headers" in inspect.signature(made).parameters:
            named.setdefault("headers", {"authorization": f"Bearer {self.token}"})
        returned = made(*arguments, **named)
        if self._runner is not None and asyncio.iscoroutine(returned):
            return self._runner.run(returned)
        return returned

    def infer(self, method: str, *arguments: Any, **named: Any) -> Any:
        """An InferResult, by whichever of the client's ways `method` is."""
        if method == "async_infer":
            if not self.over_grpc:
                return self.call("async_infer", *arguments, **named).get_result()
            answers = Answers()
            self.call("async_infer", *arguments, callback=answers.callback, **named)
            return answers.take()
        if method == "async_stream_infer":
            answers = Answers()
            self.call("start_stream", answers.callback)
            try:
                self.call("async_stream_infer", *arguments, **named)
                return answers.take()
            finally:
                self.call("stop_stream")
        if method == "stream_infer":
            assert self._runner is not None
            return self._runner.run(self._stream_infer(*arguments, **named))
        return self.call("infer", *arguments, **named)

    async def _stream_infer(self, model: str, inputs: list[Any], **named: Any) -> Any:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": model, "inputs": inputs, **named}

        answers = self.client.stream_infer(requests())
        result, error = await anext(answers)
        if error is not None:
            raise error
        return result

    def input(self, name: str, array: np.ndarray[Any, Any], datatype: str, **named: Any) -> Any:
        """An InferInput that holds an array."""
        tensor = self.triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **named)
        return tensor

    def close(self) -> None:
        """Closes the client, which may be closed already."""
        with contextlib.suppress(Exception):
            self.call("close")
        if self._runner is not None:
            self._runner.close()


class Answers:
    """What a client calls back with, to be taken one by one."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def callback(self, result: Any, error: Any) -> None:
        """For asynchronous calls and streams."""
        self._queue.put((result, error))

    def take(self, timeout: float = ANSWER_SECONDS) -> Any:
        """The next result. Raises the error of a call that failed, queue.Empty where none comes."""
        result, error = self._queue.get(timeout=timeout)
        if error is not None:
            raise error
        return result


def outcome(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The plain answer of a call, or how it failed."""
    try:
        return plain(call(*arguments, **named))
    except InferenceServerException as error:
        status = error.status() or ""
        return Failed(status.removeprefix("StatusCode."), error.message())


def plain(value: Any) -> Any:
    """Messages as dicts with the defaults of absent fields; InferResults with their arrays."""
    if hasattr(value, "get_response"):
        answer = plain(value.get_response())
        answer.pop("raw_output_contents", None)
        for output in answer["outputs"]:
            output.pop("data", None)
            array = value.as_numpy(output["name"])
            output["array"] = None if array is None else array.tolist()
        return answer
    if isinstance(value, Message):
        return {
            field.name: _enum_name(field, plain(getattr(value, field.name)))
            for field in value.DESCRIPTOR.fields
            if not field.has_presence or value.HasField(field.name)
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, MutableSequence):
        return [plain(item) for item in value]
    return value


def _enum_name(field: Any, value: Any) -> Any:
    if field.enum_type is None or not isinstance(value, int):
        return value
    return field.enum_type.values_by_number[value].name


def public_methods(wire: str) -> set[str]:
    """The names of what a client offers, found by reflection."""
    client = WIRES[wire].InferenceServerClient
    return {name for name in dir(client) if not name.startswith("_")}
