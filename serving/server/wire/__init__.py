"""Listens for gRPC calls: one interface, and the libraries that implement it."""

import importlib.util

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.config import ServerConfig, StartError
from serving.server.tls.certificates import Certificates
from serving.server.wire.grpcio.port import GrpcioWire
from serving.server.wire.interface import Limits, Wire


def wire_for(
    config: ServerConfig,
    budget: MemoryBudget,
    copies: Copies,
    metrics: FrontMetrics,
    certificates: Certificates | None = None,
) -> Wire:
    """The wire of `--wire`; `auto` takes the native one where it can run. Raises StartError.

    budget: what the wire itself holds of messages and answers is taken from here.
    copies: turns of long copies on the event loop.
    certificates: for TLS on the port; None for none.
    """
    limits, reason = Limits.of(config), native_missing()
    if config.wire == "native" and reason is not None:
        raise StartError(f"--wire native: {reason}")
    if config.wire == "grpcio" or reason is not None:
        return GrpcioWire(limits, budget, copies, metrics, certificates)
    # Imported where it is used: the library is an extra.
    from serving.server.wire.native.listener import NativeWire

    return NativeWire(limits, budget, copies, metrics, certificates=certificates)


def native_missing() -> str | None:
    """Why the native wire cannot run here; None where it can."""
    if importlib.util.find_spec("ngh2") is None:
        return "the package ngh2 is not installed (the extra `native` of convserve)"
    return None
