"""Attacks by the calls that change the server: settings, files, shared memory, and by values that
no parser expects."""

import contextlib
import json
import mmap
import os
import uuid
from pathlib import Path
from typing import Any

from benchmarks.serving.hostile.session import INFERENCE, SHARED_MEMORY, Session
from protos.gen import grpc_service_pb2 as oip
from tests.support.published import SIDE
from tests.support.valid_requests import image_document, image_request

_SHM = Path("/dev/shm")
_TRACE, _LOG = "/v2/trace/setting", "/v2/logging"
# Statuses that say that the fault is the server's.
_FAULTS = ("500", "INTERNAL", "UNKNOWN")


async def web_page(session: Session) -> None:
    """What a page of the web may send from the browser of who runs the server: writes a file by
    the settings of traces and logs, and changes settings."""
    # A page that posts to this machine, and one whose name was made to mean this machine.
    posting = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    posting["Content-Type"] = "text/plain"
    rebound = {"Host": "evil.example", "Content-Type": "application/json"}
    trace, log = session.folder / "trace", session.folder / "log"
    before = await _settings(session)
    changes: list[tuple[str, dict[str, Any]]] = [
        (_TRACE, {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "log_frequency": "1"}),
        (_TRACE, {"trace_file": str(trace)}),
        (_LOG, {"log_file": str(log)}),
        (_LOG, {"log_error": False}),
    ]
    changes.append(("/v2/models/colours/infer", image_document(id="$(touch PWNED)")))
    changes.append((_TRACE, {"trace_level": ["OFF"]}))
    changes.append(("/v2/repository/models/colours/unload", {}))
    calls = [
        session.rest("POST", path, _json(body), headers=page)
        for page in (posting, rebound)
        for path, body in changes
    ]
    await session.repeat(*calls, workers=1, most=len(calls))
    await _note_harm(session, before)


async def settings(session: Session) -> None:
    """A caller of the ports sets files that cannot be written, a pipe, and numbers without end."""
    before = await _settings(session)
    await _set(session)
    await _note_harm(session, before)


async def opened_settings(session: Session) -> None:
    """The same where the operator lets everybody change settings: whatever of it is taken must not
    write elsewhere or break another call."""
    await _set(session)
    _note_files(session, session.folder)
    infer = session.rest("POST", "/v2/models/colours/infer", _json(image_document()))
    status = await infer()
    if status != "200":
        session.harm.append(f"inference got {status} afterwards")


async def _set(session: Session) -> None:
    fifo = session.folder / "fifo"
    os.mkfifo(fifo)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(session.written / "pipe")
        (session.written / "link").symlink_to(session.folder / "linked")
    changes: list[tuple[str, dict[str, Any]]] = [
        (_LOG, {"log_file": name})
        for name in (str(fifo), "pipe", "link", "../x", "/proc/self/mem", "a\0b", "a" * 70_000)
    ]
    changes += [
        (_LOG, {"log_verbose_level": 10**400}),
        (_LOG, {"log_verbose_level": -1}),
        (_TRACE, {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "log_frequency": "1"}),
        (_TRACE, {"trace_file": "/nowhere/at/all"}),
        (_TRACE, {"trace_file": str(fifo)}),
        (_TRACE, {"trace_file": "pipe", "trace_level": ["TIMESTAMPS"], "trace_rate": "1"}),
        (_TRACE, {"trace_file": "link", "trace_level": ["TIMESTAMPS"], "trace_rate": "1"}),
        (_TRACE, {"trace_rate": "--5", "trace_count": "9" * 5000}),
    ]
    calls = [session.rest("POST", path, _json(body)) for path, body in changes]
    for _, body in changes:
        log = oip.LogSettingsRequest()
        trace = oip.TraceSettingRequest()
        for name, value in body.items():
            if isinstance(value, str) and "\0" not in value:
                log.settings[name].string_param = value
                trace.settings[name].value.append(value)
        calls.append(session.unary(INFERENCE + "LogSettings", log.SerializeToString()))
        calls.append(session.unary(INFERENCE + "TraceSetting", trace.SerializeToString()))
    await session.repeat(*calls, workers=1, most=len(calls))
    _note_faults(session)


async def _settings(session: Session) -> list[bytes]:
    """Log and trace settings as the server tells them, without heads."""
    found: list[bytes] = []
    for path in (_LOG, _TRACE):
        await session.rest("GET", path, read=lambda a: found.append(a.partition(b"\r\n\r\n")[2]))()
    return found


async def _note_harm(session: Session, before: list[bytes]) -> None:
    """Harm is: a file written, settings changed, a model gone."""
    _note_files(session, session.folder)
    _note_files(session, session.written)
    if await _settings(session) != before:
        session.harm.append("settings changed")
    if await session.rest("GET", "/v2/models/colours/ready")() != "200":
        session.harm.append("unloaded a model")


def _note_files(session: Session, folder: Path) -> None:
    written = [path.name for path in folder.iterdir() if path.is_file()]
    if written:
        session.harm.append(f"wrote {', '.join(written)} in {folder.name}")


def _note_faults(session: Session) -> None:
    faults = {name: session.statuses[name] for name in _FAULTS if session.statuses[name]}
    if faults:
        session.harm.append(f"faults of the server: {faults}")


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


async def shared_memory(session: Session) -> None:
    """A caller of the ports registers regions, though none but admins may."""
    await _register(session)
    if session.statuses["200"]:
        session.harm.append("registered a region")


async def opened_shared_memory(session: Session) -> None:
    """The same where the operator lets everybody: regions by the names of all objects, by negative
    and endless offsets, 2,000 of them, and one that is cut while it is read and written."""
    await _register(session)


async def _register(session: Session) -> None:
    key = f"{SHARED_MEMORY}-{uuid.uuid4().hex[:8]}"
    object_ = _SHM / key
    object_.write_bytes(bytes(mmap.PAGESIZE))
    register = "/v2/systemsharedmemory/region/{}/register"
    try:
        whole = {"key": key, "offset": 0, "byte_size": mmap.PAGESIZE}
        wrong = [
            {"key": name, "offset": offset, "byte_size": size}
            for name in (key, "..", "../../etc/passwd", "/proc/self/mem", "a\0b", "a" * 300, "")
            for offset, size in ((0, 1 << 70), (-1, 4), (1 << 70, 1), (0, 0), (0, -1))
        ]
        calls = [session.rest("POST", register.format("x"), _json(body)) for body in wrong]
        await session.repeat(*calls, most=len(calls))
        taken = await session.rest("POST", register.format("r"), _json(whole))()
        session.count(taken)
        size = SIDE * SIDE * 3
        place = {"shared_memory_region": "r", "shared_memory_byte_size": size}
        tensor = {"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
        inputs = [{**tensor, "parameters": place}]
        outputs = [{"name": "logits", "parameters": {**place, "shared_memory_byte_size": 12}}]
        body = _json({"inputs": inputs, "outputs": outputs})
        infer = session.rest("POST", "/v2/models/colours/infer", body)
        session.count(await infer())
        os.truncate(object_, 0)
        await session.repeat(infer, most=200)
        many = [session.rest("POST", register.format(f"n{n}"), _json(whole)) for n in range(2000)]
        os.truncate(object_, mmap.PAGESIZE)
        await session.repeat(*many, most=len(many), workers=8)
    finally:
        object_.unlink()
        await session.rest("POST", "/v2/systemsharedmemory/unregister")()
    _note_faults(session)


async def huge_numbers(session: Session) -> None:
    """Versions, lengths, times and priorities of 5,000 digits, text that is no text, names that no
    file has: each a fault of the caller, and a short line in the log or none."""
    digits = "9" * 5000
    logged = len(session.server.log)
    models = "/v2/models/colours"
    paths = [f"{models}/versions/{digits}", "/v2/models/" + "a" * 5000, "/v2/models/%00"]
    paths += [f"{models}/versions/-1", "/v2/models/%2e%2e%2fcolours", "/v2/models/%ff%fe"]
    calls = [session.rest("GET", path) for path in paths]
    calls += [session.rest("POST", f"{path}/infer", _json(image_document())) for path in paths]
    infer = f"{models}/infer"
    for parameters in (
        {"timeout": int("9" * 400)},
        {"priority": int(digits[:400])},
        {"timeout": -1},
    ):
        calls.append(session.rest("POST", infer, _json(image_document(parameters=parameters))))
    body = _json(image_document(id=1))
    for number in (digits, "-1", "1e9", "0x10", "٣"):
        header = {"Inference-Header-Content-Length": number}
        calls.append(session.rest("POST", infer, body, headers=header))
    for value in (b"1e400", b"-1e400", b"NaN", b"9" * 5000, b"true", b'"\\ud800"'):
        tensor = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,8,8,3],"data":[%s]}]}'
        calls.append(session.rest("POST", infer, tensor % value))
        tensor = tensor.replace(b"image", b"in_BYTES").replace(b"UINT8", b"BYTES")
        tensor = tensor.replace(b"[1,8,8,3]", b"[1]")
        calls.append(session.rest("POST", "/v2/models/identity-BYTES/infer", tensor % value))
    for fields in ({"model_version": digits}, {"id": "\x1b[2J" * 1000}):
        calls.append(session.unary(INFERENCE + "ModelInfer", _message(**fields)))
    for method in (
        "ModelInfer",
        "ModelConfig",
        "RepositoryIndex",
        "LogSettings",
        "ModelStatistics",
    ):
        for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"):
            calls.append(session.unary(INFERENCE + method, data))
    await session.repeat(*calls, most=20 * len(calls))
    _note_faults(session)
    lines = session.server.log[logged:]
    tracebacks = sum("traceback" in line for line in lines)
    if tracebacks or len(lines) > session.sent / 10:
        session.harm.append(f"{len(lines)} log lines, {tracebacks} tracebacks")


def _message(**fields: Any) -> bytes:
    request = image_request()
    for name, value in fields.items():
        setattr(request, name, value)
    return request.SerializeToString()


ATTACKS = (web_page, settings, shared_memory, huge_numbers)
# Those whose server lets everybody change settings, and register regions.
OPENED = (opened_settings, opened_shared_memory)
