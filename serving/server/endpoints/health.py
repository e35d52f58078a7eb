"""The one answer behind every probe of every wire: should calls be sent here?"""

from serving.models.catalogue import Catalogue


class Health:
    """The server's health. strict: ready only while every model serves."""

    def __init__(self, catalogue: Catalogue, *, strict: bool) -> None:
        self.catalogue = catalogue
        self.draining = False
        self._strict = strict

    def ready(self) -> bool:
        """True while models serve as they must and the server does not drain."""
        return not self.draining and self.catalogue.ready(self._strict)

    def model_ready(self, name: str, version: str = "") -> bool:
        """True where a model, or a version of it, serves; False for an unknown one."""
        versions = self.catalogue.ready_versions(name)
        return version in versions if version else bool(versions)
