"""The folders of a run's stages: they make a second build short.

RUN/STAGE/started.json holds the key with which a stage began, RUN/STAGE/done.json the key and the
results with which it ended. A key is a hash of everything that the results depend on.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.base.files import read_file
from training.models.checkpoint import DONE_FILE, RUN_FORMAT, STARTED_FILE

Results = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A stage that is done.

    key: that of everything the results depend on.
    results: the findings of the work, as JSON can hold them.
    seconds: how long the work took.
    ran: whether it took place in this build.
    """

    key: str
    results: Results
    seconds: float
    ran: bool


def stage_key(stage: str, settings: object, before: str) -> str:
    """sha256 over the format of run folders, a stage's name, its settings (as JSON can hold them)
    and the key of the stage before it, "" for the first."""
    content = json.dumps([RUN_FORMAT, stage, settings, before], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def finished(folder: Path, key: str) -> Finished | None:
    """The results that a former build left in a stage's folder under this key, if there are any and
    no file of it is missing."""
    try:
        document = json.loads(read_file(folder / DONE_FILE))
        if document["key"] != key or not all((folder / x).exists() for x in document["files"]):
            return None
        return Finished(key, dict(document["results"]), float(document["seconds"]), ran=False)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def run_stage(folder: Path, key: str, work: Callable[[], Results]) -> Finished:
    """Runs a stage in its folder. The folder is emptied first unless a run of the same key was
    interrupted in it: then `work` finds the files of that run, and may go on from them."""
    started = folder / STARTED_FILE
    if (folder / DONE_FILE).exists() or not _has_key(started, key):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started.write_text(json.dumps({"format": RUN_FORMAT, "key": key}))
    begun = time.monotonic()
    results = work()
    seconds = time.monotonic() - begun
    document = {
        "format": RUN_FORMAT,
        "key": key,
        "seconds": round(seconds, 2),
        "results": results,
        "files": sorted(path.name for path in folder.iterdir() if path.is_file()),
    }
    partial = folder / (DONE_FILE + ".partial")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(folder / DONE_FILE)
    return Finished(key, results, seconds, ran=True)


def copy_stage(former: Path, own: Path, *ignored: str) -> None:
    """Copies a finished stage's folder in one step, over one that is there already: a folder that
    was copied by half would pass for finished. Entries named in `ignored` stay behind."""
    partial = own.with_name(f"{own.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(former, partial, ignore=shutil.ignore_patterns(*ignored))
    shutil.rmtree(own, ignore_errors=True)
    partial.rename(own)


def _has_key(path: Path, key: str) -> bool:
    try:
        return bool(json.loads(read_file(path))["key"] == key)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
