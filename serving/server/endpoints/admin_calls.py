"""Calls that change a running server: loading, shared memory, traces, logs. Knows no wire."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from serving.base.errors import InvalidInput, ModelNotFound, NotOffered
from serving.models.catalogue import Catalogue, Loads
from serving.server.access_config import AdminGroup
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.call import Call
from serving.server.endpoints.guard import parsed, plain_text
from serving.server.endpoints.log_settings import LogSettings, Setting
from serving.server.endpoints.shared_memory import Region, SharedMemory
from serving.server.endpoints.tracing import Tracer

logger = logging.getLogger(__name__)

# Characters of a model's or region's name in the log.
_LOGGED = 200


class AdminCalls:
    """Loading, shared memory, traces and logs. Each raises NotAllowed for a caller that `admin`
    does not let in."""

    def __init__(
        self,
        catalogue: Catalogue,
        loader: Loads,
        admin: Admin,
        memory: SharedMemory,
        tracer: Tracer,
        logs: LogSettings,
    ) -> None:
        self._catalogue = catalogue
        self._loader = loader
        self._admin = admin
        self._memory = memory
        self._tracer = tracer
        self._logs = logs

    def permit(self, call: Call, group: AdminGroup) -> None:
        """Raises NotAllowed where the caller may not make calls of a group: for wires that read a
        body only then."""
        self._admin.require(call, group)

    async def load(self, call: Call, name: str, override: Mapping[str, str | bytes]) -> None:
        """Loads or reloads a model, with another config or other files where `override` has them.

        Raises InvalidInput for a bad override, and what Loader.load raises.
        """
        self._changes(call, "repository", name)
        for key in override:
            plain_text("load parameter", key)
        await self._loader.load(_model_name(name), override)

    async def unload(self, call: Call, name: str) -> None:
        """Takes a model out of service once its accepted calls are answered. Raises
        ModelNotFound."""
        self._changes(call, "repository", name)
        call.require("load", name)
        await self._loader.unload(name)

    def may_load(self, call: Call, name: str) -> bool:
        """Whether the caller may load and unload a model."""
        return self._admin.may_load(call) and call.may("load", name)

    def regions(self, call: Call, name: str) -> list[Region]:
        """One region of shared memory of the caller's, or all. Raises InvalidInput for an unknown
        one."""
        return self._memory.regions(self._admin.require(call, "memory"), name)

    def register(self, call: Call, name: str, key: str, offset: int, byte_size: int) -> None:
        """Registers a region that the caller has made on this machine. Raises InvalidInput."""
        owner = self._changes(call, "memory", name)
        parsed(self._memory.register, owner, name, key, offset, byte_size)

    def unregister(self, call: Call, name: str) -> None:
        """Forgets a region of the caller's, or all."""
        self._memory.unregister(self._changes(call, "memory", name), name)

    async def trace_settings(
        self, call: Call, model: str, changes: Mapping[str, Sequence[str]]
    ) -> dict[str, list[str]]:
        """Changes the trace settings of a model, or the server's, and reads all. Reading alone is
        anybody's, but for the name of the file. Raises ModelNotFound, InvalidInput."""
        named = model or None
        if changes:
            self._changes(call, "settings", named)
        call.require("settings" if changes else "metadata", named)
        if model:
            self._catalogue.get(model)
        if changes:
            await self._tracer.update(changes, model)
            await asyncio.to_thread(self._tracer.wait)
        settings = self._tracer.read(model)
        return settings if self._admin.allows(call, "settings") else settings | {"trace_file": [""]}

    async def log_settings(self, call: Call, changes: Mapping[str, Setting]) -> dict[str, Setting]:
        """Changes the log settings and reads all. Reading alone is anybody's, but for the name of
        the file. Raises InvalidInput."""
        call.require("settings" if changes else "metadata")
        if changes:
            self._changes(call, "settings")
            await self._logs.update(changes)
        settings = self._logs.read()
        return settings if self._admin.allows(call, "settings") else settings | {"log_file": ""}

    def _changes(self, call: Call, group: AdminGroup, subject: str | None = None) -> str:
        """Who makes a call that changes the server; it stands in the log. Raises NotAllowed.

        subject: the model that it changes, or the region; None for neither.
        """
        who = self._admin.require(call, group, None if group == "memory" else subject)
        changed = subject or ""
        if call.visit is not None:
            call.visit.admin = True
            call.visit.target = changed
        about = {"method": call.method, "by": who, "of": changed[:_LOGGED]}
        logger.info("admin call", extra=about)
        return who


def no_cuda_memory() -> NotOffered:
    """The answer to whoever has CUDA shared memory to register."""
    return NotOffered("CUDA shared memory is not offered: this server has no engine on a GPU")


def _model_name(name: str) -> str:
    """Raises ModelNotFound for a name that no folder can have."""
    try:
        return plain_text("model", name)
    except InvalidInput as error:
        raise ModelNotFound(str(error)) from error
