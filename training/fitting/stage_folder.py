"""Folders of finished and unfinished stages: what makes a second build short.

RUN/STAGE/started.json holds the key with which a stage was begun, RUN/STAGE/done.json the key and
the results with which it ended. A key is a hash of everything that the results depend on.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTED_FILE = "started.json"
DONE_FILE = "done.json"

Results = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A stage that is done: its key, what it found out (as JSON can hold it), how long it took in
    seconds, and whether that was in this build."""

    key: str
    results: Results
    seconds: float
    ran: bool


def stage_key(stage: str, settings: object, upstream: Mapping[str, str]) -> str:
    """sha256 over a stage's name, its settings (as JSON can hold them) and the keys of the stages
    that it builds on."""
    content = json.dumps([stage, settings, dict(upstream)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def finished(folder: Path, key: str) -> Finished | None:
    """What a former build left in a stage's folder, if it was made with this key."""
    try:
        document = json.loads((folder / DONE_FILE).read_text())
    except (OSError, ValueError):
        return None
    if document.get("key") != key:
        return None
    return Finished(key, document["results"], document["seconds"], ran=False)


def run_stage(folder: Path, key: str, work: Callable[[], Results]) -> Finished:
    """Runs a stage in its folder, which is emptied first unless a run of the same key was
    interrupted in it: then `work` finds what that left, and may go on from there."""
    started = folder / STARTED_FILE
    if (folder / DONE_FILE).exists() or not _has_key(started, key):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started.write_text(json.dumps({"key": key}))
    begun = time.monotonic()
    results = work()
    seconds = time.monotonic() - begun
    partial = folder / (DONE_FILE + ".partial")
    document = {"key": key, "seconds": round(seconds, 2), "results": results}
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(folder / DONE_FILE)
    return Finished(key, results, seconds, ran=True)


def _has_key(path: Path, key: str) -> bool:
    try:
        return bool(json.loads(path.read_text())["key"] == key)
    except (OSError, ValueError, KeyError):
        return False
