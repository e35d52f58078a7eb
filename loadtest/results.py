"""The raw results of a run: one record a request, and the file that keeps them.

The file is a NumPy .npz: `header` is JSON (settings, phases), every other entry is one column of
the records of all phases. Times are seconds, stage times microseconds.
"""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from loadtest.errors import LoadTestError
from serving.base.files import write_whole

SCHEMA_VERSION = 1

# Records of a raw file: 14 hours at 1,000 requests a second. They take 2 GB, more take more.
MOST_RECORDS = 50_000_000
# Bytes of its header; of its list of columns, and of the end of a zip file, which has at 12 the
# bytes of that list.
_MOST_HEADER = 16 << 20
_MOST_LIST = 1 << 16
_END = 22

# Statuses 0 to 16 are gRPC's; HTTP statuses are mapped to them.
STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
    "NOT_SENT", "UNANSWERED",
)  # fmt: skip
OK = 0
# The request was due while --max-in-flight requests were open, and was never sent.
NOT_SENT = 17
# The request was still open when the run was ended early.
UNANSWERED = 18
# Value of `right` where the answer was not checked.
UNCHECKED = -1

# One request.
# due: seconds from the start of its phase.
# late: seconds from due to sent.
# latency: seconds from due to answered.
# deadline: seconds, 0 for none.
# model: number of the model in the run.
# images: images, or rows of tensors, in the request.
# right: number of images whose label was right, or UNCHECKED.
# batch_size, *_us: as the answer tells them, 0 where it does not.
RECORD = np.dtype(
    [
        ("due", "<f8"),
        ("late", "<f4"),
        ("latency", "<f4"),
        ("deadline", "<f4"),
        ("status", "u1"),
        ("priority", "u1"),
        ("model", "u1"),
        ("images", "<u2"),
        ("right", "<i2"),
        ("batch_size", "<u2"),
        ("decode_us", "<u4"),
        ("queue_us", "<u4"),
        ("infer_us", "<u4"),
        ("postprocess_us", "<u4"),
    ]
)
Records = NDArray[np.void]
# Packs the fields of a record in that order, about ten times as fast as NumPy takes a tuple.
pack_record = struct.Struct("<dfffBBBHhHIIII").pack


# What numpy and zipfile raise for bytes that are none of ours; the last is an unknown compression.
_NO_RAW_FILE = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError, zipfile.BadZipFile,
    zlib.error, NotImplementedError,
)  # fmt: skip


class _TooLong(Exception):
    """A column of more elements than are read; the text says so."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a run under one load.

    arrivals: kind of the arrivals.
    rate: requests/s offered by an open loop, 0 in a closed one.
    concurrency: requests kept open by a closed loop, 0 in an open one.
    started: Unix time.
    begin: seconds from the start to the end of the warm-up.
    end: seconds from the start to the end of the measured part.
    workers: number of generator processes.
    generator_cpu: CPU seconds a second of the phase, over all generator processes.
    interrupted: whether the user ended it early.
    server: counters, CPU and memory of the server over the measured part.
    records: all requests, by due time.
    """

    label: str
    url: str
    arrivals: str
    rate: float
    concurrency: int
    started: float
    begin: float
    end: float
    workers: int
    generator_cpu: float = 0.0
    interrupted: bool = False
    server: dict[str, Any] = field(default_factory=dict)
    records: Records = field(default_factory=lambda: np.empty(0, RECORD))

    @property
    def seconds(self) -> float:
        """Length of the measured part."""
        return max(self.end - self.begin, 1e-9)

    @property
    def measured(self) -> Records:
        """The records of requests that were due in the measured part."""
        due = self.records["due"]
        return self.records[(due >= self.begin) & (due < self.end)]


@dataclass(frozen=True)
class Run:
    """A whole run.

    settings: the options that were given.
    models: names by the number that records have.
    """

    settings: dict[str, Any]
    models: tuple[str, ...]
    phases: tuple[Phase, ...]


def records_of(chunks: Iterable[bytes]) -> Records:
    """Records that `pack_record` packed, sorted by due time."""
    records = np.frombuffer(b"".join(chunks), RECORD)
    return records[np.argsort(records["due"], kind="stable")]


def write_run(run: Run, path: Path) -> None:
    """Writes a run to a raw file. Raises LoadTestError."""
    header = {
        "schema_version": SCHEMA_VERSION,
        "settings": run.settings,
        "models": run.models,
        "phases": [
            {**asdict(replace(p, records=np.empty(0, RECORD))), "records": len(p.records)}
            for p in run.phases
        ],
    }
    records = np.concatenate([np.empty(0, RECORD), *(p.records for p in run.phases)])
    content = io.BytesIO()
    # By column, as a column of zeros compresses to nothing.
    columns: dict[str, Any] = {name: records[name] for name in RECORD.names or ()}
    columns["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez_compressed(content, **columns)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror}") from error


def read_run(path: Path) -> Run:
    """Reads a raw file. Raises LoadTestError."""
    try:
        with path.open("rb") as stream:
            _check_list(stream)
            with zipfile.ZipFile(stream) as archive:
                header = json.loads(
                    _column(archive, "header", np.dtype("u1"), _MOST_HEADER).tobytes()
                )
                if header["schema_version"] != SCHEMA_VERSION:
                    raise LoadTestError(
                        f"{path}: schema version {header['schema_version']}, this reads "
                        f"{SCHEMA_VERSION}"
                    )
                return _run(header, _records(archive))
    except _TooLong as error:
        raise LoadTestError(f"{path}: {error}") from error
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror or error}") from error
    except _NO_RAW_FILE as error:
        raise LoadTestError(f"{path}: not a raw file of a load test") from error


def _check_list(stream: BinaryIO) -> None:
    """Raises ValueError where a zip file has a long list of members, which zipfile reads whole."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _END))
    end = stream.read(_END)
    if not end.startswith(b"PK\5\6") or int.from_bytes(end[12:16], "little") > _MOST_LIST:
        raise ValueError("no archive of a few arrays, as NumPy writes it")
    stream.seek(0)


def _column(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], most: int) -> NDArray[Any]:
    """One array, of which nothing is read before its header says how long it is. Raises _TooLong,
    ValueError, and the errors of zipfile."""
    with archive.open(f"{name}.npy") as stream:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError(f"{name}: another version of NumPy's format")
        shape, _, found = npy.read_array_header_1_0(stream)
        if found != dtype or len(shape) != 1:
            raise ValueError(f"{name}: {found} {list(shape)}, expected {dtype} [n]")
        if shape[0] > most:
            raise _TooLong(f"{name}: {shape[0]:,} elements, expected at most {most:,}")
        content = stream.read(shape[0] * dtype.itemsize)
    return np.frombuffer(content, dtype, shape[0])


def _records(archive: zipfile.ZipFile) -> Records:
    fields = dict(RECORD.fields or {})
    due = _column(archive, "due", fields["due"][0], MOST_RECORDS)
    records = np.empty(len(due), RECORD)
    for name, (dtype, *_) in fields.items():
        column = due if name == "due" else _column(archive, name, dtype, len(due))
        if len(column) != len(due):
            raise ValueError(f"{name}: {len(column)} elements, expected {len(due)}")
        records[name] = column
    return records


def _run(header: dict[str, Any], records: Records) -> Run:
    if len(records) and records["status"].max() >= len(STATUSES):
        raise ValueError("a status that there is not")
    if len(records) and records["model"].max() >= len(header["models"]):
        raise ValueError("a model that has no name")
    phases = []
    first = 0
    for phase in header["phases"]:
        count = phase.pop("records")
        phases.append(Phase(**phase, records=records[first : first + count]))
        first += count
    return Run(header["settings"], tuple(header["models"]), tuple(phases))


def merge(runs: Sequence[Run]) -> Run:
    """Joins the runs of several machines: the n-th phases of all become one.

    Requests keep their time from the start of their own phase. Raises LoadTestError where the
    runs have other phases or models.
    """
    first, *others = runs
    for run in others:
        if [p.label for p in run.phases] != [p.label for p in first.phases]:
            raise LoadTestError(
                "files do not fit together: phases "
                f"{', '.join(p.label for p in first.phases)} and "
                f"{', '.join(p.label for p in run.phases)}"
            )
        if run.models != first.models:
            raise LoadTestError(
                f"files do not fit together: models {', '.join(first.models)} and "
                f"{', '.join(run.models)}"
            )
    if not others:
        return first
    phases = tuple(_overlaid(group) for group in zip(*(r.phases for r in runs), strict=True))
    return Run({**first.settings, "machines": len(runs)}, first.models, phases)


def _overlaid(phases: Sequence[Phase]) -> Phase:
    records = np.concatenate([p.records for p in phases])
    return replace(
        phases[0],
        rate=sum(p.rate for p in phases),
        concurrency=sum(p.concurrency for p in phases),
        started=min(p.started for p in phases),
        begin=max(p.begin for p in phases),
        end=min(p.end for p in phases),
        workers=sum(p.workers for p in phases),
        generator_cpu=sum(p.generator_cpu for p in phases),
        interrupted=any(p.interrupted for p in phases),
        records=records[np.argsort(records["due"], kind="stable")],
    )
