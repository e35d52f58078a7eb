"""Makes TensorRT plans beside a running server, and has it switch to them.

Each model's plans are built by a process of their own (`convserve rebuild`): a build takes minutes,
memory of the GPU and, where it crashes, whoever it runs in.
"""

import asyncio
import logging
import sys
from pathlib import Path

from serving.engines import unavailable_reason
from serving.errors import ServingError
from serving.plans import ENGINE
from serving.registry import Registry, State

log = logging.getLogger(__name__)


class PlanBuilding:
    """Builds what is missing for every version that serves, one model at a time."""

    def __init__(self, registry: Registry, repository: Path, cache_dir: Path) -> None:
        self._registry = registry
        self._repository = repository
        self._cache_dir = cache_dir
        self._tried: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        registry.on_change(self._changed.set)

    async def run(self) -> None:
        """Follows the registry until cancelled; ends at once where TensorRT cannot run here."""
        reason = unavailable_reason(ENGINE)
        if reason is not None:
            log.warning("plans are not built", extra={"reason": f"{ENGINE}: {reason}"})
            return
        while True:
            await self._changed.wait()
            self._changed.clear()
            # A load measures latencies; nothing may compute beside it.
            if any(line.state is State.LOADING for line in self._registry.index()):
                continue
            for name in self._untried():
                await self._build(name)

    def _untried(self) -> list[str]:
        ready = [line for line in self._registry.index() if line.state is State.READY]
        new = {(line.name, line.version) for line in ready} - self._tried
        self._tried |= new
        return sorted({name for name, _ in new})

    async def _build(self, name: str) -> None:
        log.info("building plans", extra={"model": name})
        command = [sys.executable, "-m", "convserve", "rebuild", "--model", name]
        command += ["--model-repository", str(self._repository)]
        command += ["--cache-dir", str(self._cache_dir)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        try:
            _, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            reason = errors.decode(errors="replace").strip()
            log.error("plans not built", extra={"model": name, "reason": reason})
        try:
            await self._registry.reload(name)
        except ServingError as error:
            log.error("model not reloaded", extra={"model": name, "reason": str(error)})
