"""Calls of the Open Inference Protocol over REST, and questions about models."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from loadtest.errors import LoadTestError
from loadtest.payloads.content import TensorInput
from loadtest.results import OK, UNCHECKED
from loadtest.wire.messages import (
    ModelFacts,
    Outcome,
    Request,
    count_right,
    encoded_input,
    failed,
    model_path,
)
from serving.client.tls import ClientTls, fault_of, tls_for

_CONTROL_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
# Bytes of an answer that the client takes, as over gRPC, and of an answer to a question about
# models. More let a server take more of its memory.
MOST_BYTES = 256 << 20
_CONTROL_BYTES = 16 << 20
# Status of gRPC by status of HTTP; any other is UNKNOWN.
_STATUSES = {
    400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 429: 8, 499: 1, 500: 13, 501: 12, 502: 14,
    503: 14, 504: 4,
}  # fmt: skip
_UNKNOWN = 2
_DEADLINE_EXCEEDED = 4
_RESOURCE_EXHAUSTED = 8
_INTERNAL = 13
_UNAVAILABLE = 14
_BINARY = "Inference-Header-Content-Length"


def is_rest(url: str) -> bool:
    """Whether a server is called over REST."""
    return url.startswith(("http://", "https://"))


def _session(
    url: str, tls: ClientTls | None, headers: Mapping[str, str] | None, **more: Any
) -> aiohttp.ClientSession:
    """Its requests follow no redirect: the headers may hold a key, which is for this server alone,
    and a second request would be measured as part of the first."""
    used = tls_for(url, tls)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=used.context() if used else True),
        # aiohttp accepts gzip by default, whose CPU would be measured with the server's, and of
        # which a few bytes become many.
        headers={"Accept-Encoding": "identity", **(headers or {})},
        auto_decompress=False,
        **more,
    )


class RestClient:
    """One POST a request, over connections that are kept open."""

    def __init__(
        self,
        url: str,
        timeout: float,
        tls: ClientTls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._session = _session(url, tls, headers)

    async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
        """Sends a request; `deadline` is in seconds, 0 for none. The priority is not sent."""
        headers = {"Content-Type": "application/json"}
        if request.json_length:
            headers = {
                "Content-Type": "application/octet-stream",
                _BINARY: str(request.json_length),
            }
        if request.traceparent:
            headers["traceparent"] = request.traceparent
        try:
            async with asyncio.timeout(deadline or self._timeout):
                async with self._session.post(
                    self._url + request.method,
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                ) as response:
                    content = await _content(response, MOST_BYTES)
        except TimeoutError:
            return failed(_DEADLINE_EXCEEDED)
        except _TooLarge:
            return failed(_RESOURCE_EXHAUSTED)
        except aiohttp.ClientError:
            return failed(_UNAVAILABLE)
        if response.status != 200:
            return failed(_STATUSES.get(response.status, _UNKNOWN))
        return _answer(content, request.expected, response.headers.get(_BINARY))

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()


class _TooLarge(Exception):
    """An answer of more bytes than are taken."""


async def _content(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole of an answer. Raises _TooLarge, and what reading raises."""
    if (response.content_length or 0) > most:
        raise _TooLarge
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            raise _TooLarge
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _answer(content: bytes, expected: Sequence[str], json_length: str | None) -> Outcome:
    right = UNCHECKED
    if expected:
        try:
            document = json.loads(content[: int(json_length)] if json_length else content)
            found = [str(text).encode() for text in document["outputs"][0]["data"]]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return failed(_INTERNAL)
        right = count_right(found, expected)
    return (OK, right, 0, 0, 0, 0, 0)


async def describe(
    url: str,
    names: Sequence[str],
    tls: ClientTls | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[list[ModelFacts], bool]:
    """Asks the server about models (NAME, or NAME:VERSION), and whether it takes binary tensors.

    Raises LoadTestError where no server answers or a model is not there.
    """
    async with _session(url, tls, headers, timeout=_CONTROL_TIMEOUT) as session:
        try:
            server = await _get(session, url, "/v2")
        except LoadTestError as error:
            fault = await asyncio.to_thread(fault_of, url, tls)
            if not fault:
                raise
            raise LoadTestError(f"no server answers at {url} ({fault})") from error
        models = [await _describe(session, url, name) for name in names]
    return models, "binary_tensor_data" in server.get("extensions", ())


async def _describe(session: aiohttp.ClientSession, url: str, model: str) -> ModelFacts:
    name, _, version = model.partition(":")
    path = model_path(name, version)
    metadata = await _get(session, url, path)
    try:
        inputs = tuple(
            TensorInput(i["name"], i["datatype"], tuple(int(d) for d in i["shape"]))
            for i in metadata.get("inputs") or ()
        )
        outputs = [str(o["name"]) for o in metadata.get("outputs") or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise LoadTestError(f"{url}: the metadata of model {model!r} cannot be read") from error
    parameters = await _parameters(session, url, path)
    return ModelFacts(
        name,
        version,
        parameters.get("task", ""),
        inputs,
        outputs[0] if outputs else "",
        encoded_input(parameters, inputs),
    )


async def _parameters(session: aiohttp.ClientSession, url: str, path: str) -> dict[str, str]:
    """The parameters of the model's config (an extension); none where the server has no such
    call, or answers with another form."""
    try:
        found = (await _get(session, url, f"{path}/config")).get("parameters")
    except LoadTestError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: str(value.get("string_value", ""))
        for key, value in found.items()
        if isinstance(value, dict)
    }


async def _get(session: aiohttp.ClientSession, url: str, path: str) -> dict[str, Any]:
    try:
        async with session.get(url.rstrip("/") + path, allow_redirects=False) as response:
            content = await _content(response, _CONTROL_BYTES)
    except _TooLarge as error:
        raise LoadTestError(
            f"{url}{path}: an answer of more than {_CONTROL_BYTES} bytes"
        ) from error
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise LoadTestError(f"no server answers at {url} ({type(error).__name__})") from error
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if response.status != 200 or not isinstance(document, dict):
        said = document.get("error") if isinstance(document, dict) else None
        raise LoadTestError(f"{url}{path}: HTTP {response.status}{f': {said}' if said else ''}")
    return document
