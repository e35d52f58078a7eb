"""Times a model's candidates in a helper process, so that their memory is freed with it.

The server then finds the latencies and the compiled networks in its cache, and loads only the
candidate that serves.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.base.errors import ModelLoadError
from serving.base.machine.cpu import core_count
from serving.base.metrics import EngineMetrics
from serving.batching.core_turns import CoreTurns
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.config_completion import read_config
from serving.models.loading.helper import Helper, HelperFailed
from serving.models.loading.version import load_model
from serving.repository.layout import scan_model

logger = logging.getLogger(__name__)


def time_apart(path: Path, version: int, settings: LoadSettings) -> None:
    """Times NAME/<version> in a helper and waits for its end. Where that fails, it logs the reason;
    the candidates are then timed in this process, which keeps their memory."""
    helper = Helper("time", path=path, version=version, settings=asdict(settings))
    try:
        helper.run()
    except HelperFailed as failure:
        logger.warning(
            "no process of its own to time the engines in: the server does it and keeps their "
            "memory",
            extra={"model": path.name, "reason": str(failure), "printed": failure.detail},
        )
    except ModelLoadError:
        return  # this process meets and reports the same error


def time_candidates(path: str, version: int, settings: dict[str, Any]) -> None:
    """Loads NAME/<version> as the server would, in the helper. Raises ModelLoadError."""
    cache_dir = settings["cache_dir"]
    given = LoadSettings(**{**settings, "cache_dir": cache_dir and Path(cache_dir)})
    config = read_config(scan_model(Path(path)), strict=given.strict_config)
    load_model(Path(path), config, version, given, EngineMetrics(), CoreTurns(core_count())).close()
