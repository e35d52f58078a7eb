"""A version that several engine processes serve."""

import math
from collections.abc import Sequence

from serving.remote.front.port import RemotePort


class Spread:
    """The ports of one version. Each call goes to the engine process with the fewest rows that have
    no answer yet.

    An engine that is idle then takes a call at once, and each of those that are busy fills its next
    batch by as many; one that is slow, or hangs, gets fewer.

    ports: of each engine process that serves the version, or is started again to serve it.
    """

    def __init__(self) -> None:
        self.ports: Sequence[RemotePort] = ()

    def over(self, ports: Sequence[RemotePort]) -> None:
        """Has these ports take calls from now on, and those that serve the calls that wait."""
        self.ports = ports
        for port in ports:
            port.spread = self
        for port in ports:
            if not port.live:
                port.calls.leave(port)

    def chosen(self) -> RemotePort:
        """The port for a new call; where nobody serves, the one that is likely to be the first."""
        return _least_loaded(self.ports) or min(
            self.ports, key=lambda port: (port.calls.hopeless, port.calls.expected())
        )

    def beside(self, port: RemotePort) -> RemotePort | None:
        """The port that calls of one which serves nobody now can go to. Where none serves, one that
        may again, unless that one may itself."""
        others = [each for each in self.ports if each is not port and each.takes_as(port)]
        found = _least_loaded(others)
        if found is None and port.calls.hopeless:
            found = next((each for each in others if not each.calls.hopeless), None)
        return found


def _least_loaded(ports: Sequence[RemotePort]) -> RemotePort | None:
    """The first of those with the fewest rows, of the ports that are live."""
    found, least = None, math.inf
    for port in ports:
        if port.open_rows < least and port.live:
            found, least = port, port.open_rows
    return found
