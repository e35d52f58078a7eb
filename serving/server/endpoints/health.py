"""The one answer behind every probe of every wire: should calls be sent here?"""

from collections.abc import Sequence
from typing import Protocol

from serving.models.catalogue import Catalogue


class Processes(Protocol):
    """The processes that answer calls."""

    def ready(self) -> bool:
        """Whether those run that must."""

    def answer(self) -> bool:
        """Whether one runs, and calls are answered."""

    def lines(self) -> Sequence[str]:
        """A line for each; none where this one is all."""


class OneProcess:
    """This process answers."""

    def ready(self) -> bool:
        """True."""
        return True

    def answer(self) -> bool:
        """True."""
        return True

    def lines(self) -> Sequence[str]:
        """None."""
        return ()


class Health:
    """The server's health.

    strict: ready only while every model serves.
    explicit: models are loaded by call, not at the start.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        strict: bool,
        explicit: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.catalogue = catalogue
        self._explicit = explicit
        self._processes = processes or OneProcess()
        self.draining = False
        self._strict = strict

    def ready(self) -> bool:
        """True while models serve as they must and the server does not drain."""
        here = not self.draining and self._processes.ready()
        return here and self.catalogue.ready(self._strict)

    def processes(self) -> Sequence[str]:
        """A line for each process of the server; none where it is one."""
        return self._processes.lines()

    def why_not(self) -> str:
        """Why the server is not ready, where no process and no model is the cause; else empty."""
        if self.draining:
            return "the server is closing"
        if self.catalogue.entries:
            return ""
        if self._explicit:
            return (
                "no model is loaded: load one by POST /v2/repository/models/MODEL/load "
                "(--model-control explicit)"
            )
        return "no model was found: see that --model-repository has MODEL/VERSION/model.onnx"

    def model_ready(self, name: str, version: str = "") -> bool:
        """True where a model, or a version of it, serves; False for an unknown one."""
        if not self._processes.answer():
            return False
        versions = self.catalogue.ready_versions(name)
        return version in versions if version else bool(versions)
