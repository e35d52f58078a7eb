"""The one answer behind every probe of every wire: should calls be sent here?"""

from serving.models.loading.loader import Registry


class Health:
    """The server's health. strict: ready only while every model serves."""

    def __init__(self, registry: Registry, *, strict: bool) -> None:
        self.registry = registry
        self.draining = False
        self._strict = strict

    def ready(self) -> bool:
        """True while models serve as they must and the server does not drain."""
        return not self.draining and self.registry.ready(self._strict)

    def model_ready(self, name: str, version: str = "") -> bool:
        """True where a model, or a version of it, serves; False for an unknown one."""
        versions = self.registry.ready_versions(name)
        return version in versions if version else bool(versions)
