"""Makes TensorRT plans beside a running server, and has it switch to them.

Each model's plans are built by a process of their own (`convserve rebuild`): a build takes minutes,
memory of the GPU and, where it crashes, whoever it runs in.
"""

import asyncio
import hashlib
import json
import logging
import sys
from pathlib import Path

from serving.base.errors import ServingError
from serving.engines import unavailable_reason
from serving.models.local_plans import ENGINE
from serving.models.registry import Registry, State, VersionStatus
from serving.repository.manifest import MANIFEST_FILE

log = logging.getLogger(__name__)


class PlanBuilding:
    """Builds what is missing for every version that serves, one model at a time."""

    def __init__(self, registry: Registry, repository: Path, cache_dir: Path) -> None:
        self._registry = registry
        self._repository = repository
        self._cache_dir = cache_dir
        # With the manifest: files of another build may come under the number of an earlier one.
        self._tried: set[tuple[str, str, str]] = set()
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
        new = {(line.name, line.version, self._digest(line)) for line in ready} - self._tried
        self._tried |= new
        return sorted({name for name, _, _ in new})

    def _digest(self, line: VersionStatus) -> str:
        """Of a version's manifest; empty where it has none."""
        try:
            content = (self._repository / line.name / line.version / MANIFEST_FILE).read_bytes()
        except OSError:
            return ""
        return hashlib.sha256(content).hexdigest()

    async def _build(self, name: str) -> None:
        log.info("building plans", extra={"model": name})
        command = [sys.executable, "-m", "convserve", "rebuild", "--json"]
        command += ["--model", name]
        command += ["--model-repository", str(self._repository)]
        command += ["--cache-dir", str(self._cache_dir)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            reason = errors.decode(errors="replace").strip()
            log.error("plans not built", extra={"model": name, "reason": reason})
        # One may be there though another failed; without a new one, what serves is what there is.
        if not _made_one(output):
            log.info("no new plans", extra={"model": name})
            return
        try:
            await self._registry.reload(name)
        except ServingError as error:
            log.error("model not reloaded", extra={"model": name, "reason": str(error)})


def _made_one(output: bytes) -> bool:
    """Whether `rebuild --json` made a plan. Taken to have where a runtime wrote into its answer."""
    try:
        lines = json.loads(output or b"[]")
    except ValueError:
        return True
    return any(line["state"] == "built" for line in lines)
