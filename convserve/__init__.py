"""convserve from Python: recipes, builds, servers and their clients.

    import convserve

    report = convserve.build("flowers.yaml")
    with convserve.Server(report.model_repository) as server, server.client() as client:
        client.classify("flowers", "photos/daisy/0001.jpg")

The names in `__all__` are stable. Each is imported at its first use: `import convserve` alone
brings neither torch nor the server.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convserve.builds import build
    from convserve.recipes import Recipe
    from convserve.reports import Report
    from convserve.servers import Server
    from serving.client import AsyncVisionClient as AsyncClient
    from serving.client import CallFailed, ClientTls, mask_of
    from serving.client import VisionClient as Client
    from serving.server.config import StartError
    from training.errors import BuildError, RecipeError, VerificationError

    __version__: str

# By name: the module that defines it, and its name there.
_PLACES = {
    "AsyncClient": ("serving.client", "AsyncVisionClient"),
    "BuildError": ("training.errors", "BuildError"),
    "CallFailed": ("serving.client", "CallFailed"),
    "Client": ("serving.client", "VisionClient"),
    "ClientTls": ("serving.client", "ClientTls"),
    "Recipe": ("convserve.recipes", "Recipe"),
    "RecipeError": ("training.errors", "RecipeError"),
    "Report": ("convserve.reports", "Report"),
    "Server": ("convserve.servers", "Server"),
    "StartError": ("serving.server.config", "StartError"),
    "VerificationError": ("training.errors", "VerificationError"),
    "build": ("convserve.builds", "build"),
    "mask_of": ("serving.client", "mask_of"),
}

__all__ = [
    "AsyncClient",
    "BuildError",
    "CallFailed",
    "Client",
    "ClientTls",
    "Recipe",
    "RecipeError",
    "Report",
    "Server",
    "StartError",
    "VerificationError",
    "build",
    "mask_of",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        found: object = metadata.version("convserve")
    elif name in _PLACES:
        module, attribute = _PLACES[name]
        found = getattr(importlib.import_module(module), attribute)
    else:
        raise AttributeError(f"module 'convserve' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
