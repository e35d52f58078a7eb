"""Who may change a running server."""

import ipaddress

from serving.base.errors import NotAllowed


class Admin:
    """Lets admin calls in from this machine only, unless `allow_remote`; lets models be loaded by
    call only under `explicit` control."""

    def __init__(self, *, allow_remote: bool, explicit: bool) -> None:
        self._allow_remote = allow_remote
        self._explicit = explicit

    def require_local(self, address: str | None) -> None:
        """Raises NotAllowed for a caller from elsewhere; None is a caller without an address, on a
        socket of this machine."""
        if self._allow_remote or address is None:
            return
        try:
            local = ipaddress.ip_address(address).is_loopback
        except ValueError:
            local = False
        if not local:
            raise NotAllowed(f"admin calls are refused from {address}: --allow-admin permits them")

    def require_explicit(self) -> None:
        """Raises NotAllowed where models follow the repository and not calls."""
        if not self._explicit:
            raise NotAllowed("models are loaded by call only with --model-control explicit")
