"""Timing a model's candidates in a process of its own, with which what they leave in memory ends.

The server then finds the latencies, and the networks compiled, in its cache, and loads only what it
serves.
"""

import contextlib
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from serving.base.errors import ModelLoadError
from serving.base.machine.cpu import core_count
from serving.base.metrics import Metrics
from serving.batching.turns import CoreTurns
from serving.models.loading import LoadSettings, load_model
from serving.repository.model_config import read_model_config

logger = logging.getLogger(__name__)


def rehearse(path: Path, version: int, settings: LoadSettings) -> None:
    """Loads NAME/<version> in another process and waits for its end. Where that goes wrong, the
    reason is logged, and the candidates are timed in this process, which keeps their memory."""
    command = [sys.executable, "-m", "serving.models.timing_process", str(path), str(version)]
    document = json.dumps(asdict(settings), default=str)
    try:
        done = subprocess.run(command, input=document, capture_output=True, text=True, check=False)
    except OSError as error:
        reason = str(error)
    else:
        if done.returncode == 0:
            return
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    logger.warning(
        "no process of its own to time the engines in: the server does it and keeps their memory",
        extra={"model": path.name, "reason": reason},
    )


def main() -> None:
    """Loads what the arguments name with the settings on stdin, and ends."""
    path, version = Path(sys.argv[1]), int(sys.argv[2])
    given = json.load(sys.stdin)
    if given["cache_dir"] is not None:
        given["cache_dir"] = Path(given["cache_dir"])
    # What cannot be served the server finds out as well, and says.
    with ThreadPoolExecutor(1) as decoders, contextlib.suppress(ModelLoadError):
        load_model(
            path,
            read_model_config(path),
            version,
            LoadSettings(**given),
            Metrics(),
            decoders,
            CoreTurns(core_count()),
        ).close()


if __name__ == "__main__":
    main()
