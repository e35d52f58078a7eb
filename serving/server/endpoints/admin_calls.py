"""Calls that change a running server: loading, shared memory, traces, logs. Knows no wire."""

from collections.abc import Mapping, Sequence

from serving.base.errors import InvalidInput, ModelNotFound, NotOffered
from serving.models.registry import Registry
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.front import Call
from serving.server.endpoints.guard import parsed, plain_text
from serving.server.endpoints.log_settings import LogSettings, Setting
from serving.server.endpoints.shared_memory import Region, SharedMemory
from serving.server.endpoints.tracing import Tracer


class AdminCalls:
    """Loading, shared memory, traces and logs. Each raises NotAllowed for a caller that `admin`
    does not let in."""

    def __init__(
        self,
        registry: Registry,
        admin: Admin,
        memory: SharedMemory,
        tracer: Tracer,
        logs: LogSettings,
    ) -> None:
        self._registry = registry
        self._admin = admin
        self._memory = memory
        self._tracer = tracer
        self._logs = logs

    async def load(self, call: Call, name: str, override: Mapping[str, str | bytes]) -> None:
        """Loads or reloads a model, with another config or other files where `override` has them.

        Raises InvalidInput for a bad override, and what Registry.load raises.
        """
        self._require_explicit(call)
        for key in override:
            plain_text("load parameter", key)
        await self._registry.load(_model_name(name), override)

    async def unload(self, call: Call, name: str) -> None:
        """Takes a model out of service once its accepted calls are answered. Raises
        ModelNotFound."""
        self._require_explicit(call)
        await self._registry.unload(name)

    def regions(self, call: Call, name: str) -> list[Region]:
        """One region of shared memory, or all. Raises InvalidInput for an unknown one."""
        self._admin.require_local(call.address)
        return self._memory.regions(name)

    def register(self, call: Call, name: str, key: str, offset: int, byte_size: int) -> None:
        """Registers a region that the caller has made on this machine. Raises InvalidInput."""
        self._admin.require_local(call.address)
        parsed(self._memory.register, name, key, offset, byte_size)

    def unregister(self, call: Call, name: str) -> None:
        """Forgets a region, or all."""
        self._admin.require_local(call.address)
        self._memory.unregister(name)

    def trace_settings(
        self, call: Call, model: str, changes: Mapping[str, Sequence[str]]
    ) -> dict[str, list[str]]:
        """Changes the trace settings of a model, or the server's, and reads all. Reading alone is
        anybody's. Raises ModelNotFound, InvalidInput."""
        if model:
            self._registry.get(model)
        if changes:
            self._admin.require_local(call.address)
            parsed(self._tracer.update, changes, model)
        return self._tracer.read(model)

    def log_settings(self, call: Call, changes: Mapping[str, Setting]) -> dict[str, Setting]:
        """Changes the log settings and reads all. Reading alone is anybody's. Raises
        InvalidInput."""
        if changes:
            self._admin.require_local(call.address)
            parsed(self._logs.update, changes)
        return self._logs.read()

    def _require_explicit(self, call: Call) -> None:
        self._admin.require_local(call.address)
        self._admin.require_explicit()


def no_cuda_memory() -> NotOffered:
    """The answer to whoever has CUDA shared memory to register."""
    return NotOffered("CUDA shared memory is not offered: this server has no engine on a GPU")


def _model_name(name: str) -> str:
    """Raises ModelNotFound for a name that no folder can have."""
    try:
        return plain_text("model", name)
    except InvalidInput as error:
        raise ModelNotFound(str(error)) from error
