"""Who may change a running server, or pass it tensors in shared memory."""

import hmac
import logging
import os
import stat
from collections.abc import Collection
from pathlib import Path

from serving.base.errors import NotAllowed, quoted
from serving.server.access.caller import Caller
from serving.server.access.door import ADMINS
from serving.server.access.policy import Action
from serving.server.access_config import AdminGroup, AdminMode
from serving.server.config import ServerConfig, StartError
from serving.server.endpoints.call import Call

logger = logging.getLogger(__name__)

# Characters of a token. Fewer can be guessed by trying, more would not fit beside other headers.
_SHORTEST, _LONGEST = 16, 1024
# The action of a policy that permits the calls of a group.
_ACTIONS: dict[AdminGroup, Action] = {
    "repository": "load",
    "settings": "settings",
    "memory": "memory",
}
_FOREIGN = stat.S_IRWXO | stat.S_IWGRP


class TokenFile:
    """The token in a file, read again when the file changes. While the file cannot be used, there
    is no token."""

    def __init__(self, path: Path) -> None:
        """Raises StartError where the file cannot be used."""
        self._path = path
        # Device, inode and times at which the token was read.
        self._stamp: tuple[int, ...] = ()
        self._token = b""
        problem = self._read()
        if problem:
            raise StartError(f"--admin-token-file: {problem}")

    def matches(self, authorization: str) -> bool:
        """True for "Bearer" and the token. Takes the same time wherever the two differ."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        problem = self._read()
        if problem:
            logger.error("no token is taken", extra={"reason": problem})
        same = hmac.compare_digest(given.strip().encode(errors="replace"), self._token)
        return same and bool(self._token)

    def _read(self) -> str:
        """Reads the token where the file has changed. Returns why it cannot be used, once."""
        try:
            found = self._path.stat()
            stamp: tuple[int, ...] = (
                found.st_dev,
                found.st_ino,
                found.st_mtime_ns,
                found.st_ctime_ns,
            )
        except OSError:
            stamp = (0,)
        if stamp == self._stamp:
            return ""
        self._token, self._stamp = b"", stamp
        try:
            self._token, problem = _token_of(self._path)
        except OSError as error:
            return f"{self._path} cannot be read: {error.strerror}"
        return problem


def _token_of(path: Path) -> tuple[bytes, str]:
    """The token in a file, and why it cannot be used; one of the two is empty. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        token = os.read(descriptor, _LONGEST + 2).strip() if stat.S_ISREG(mode) else b""
    finally:
        os.close(descriptor)
    if mode & _FOREIGN:
        return b"", f"{path} may be read or written by others (mode {stat.S_IMODE(mode):o})"
    if not _SHORTEST <= len(token) <= _LONGEST or not all(0x21 <= byte <= 0x7E for byte in token):
        expected = f"{_SHORTEST} to {_LONGEST} printable ASCII characters without blanks"
        return b"", f"{path}: expected {expected}"
    return token, ""


class Admin:
    """The one place that decides about admin calls.

    mode: who may make all of them.
    opened: the groups that everybody may make.
    token: the token of mode "token".
    explicit: models are loaded by call at all.
    memory: shared memory is taken at all.
    by_policy: beside the admins of the socket and the token a policy says who may make them, and
        nothing is open.
    """

    def __init__(
        self,
        mode: AdminMode,
        opened: Collection[str] = (),
        token: TokenFile | None = None,
        *,
        explicit: bool,
        memory: bool,
        by_policy: bool = False,
    ) -> None:
        self._mode = mode
        self._opened = opened
        self._token = token
        self._explicit = explicit
        self.memory = memory
        self._by_policy = by_policy

    def identity(self, caller: Caller) -> str | None:
        """Who calls, where that is proved: "socket" or "token". None for everybody else."""
        if self._mode != "off" and caller.address is None:
            return "socket"
        if self._token is not None and self._token.matches(caller.authorization):
            return "token"
        return None

    def allows(self, call: Call, group: AdminGroup) -> bool:
        """Whether the caller may make the admin calls of a group."""
        if self._by_policy and call.visit is not None:
            return _ACTIONS[group] in call.visit.rights.everywhere
        if self._mode == "open" or group in self._opened:
            return True
        return self.identity(call.caller) is not None

    def may_load(self, call: Call) -> bool:
        """Whether the caller may load models of some names by call."""
        return self._explicit and self.allows(call, "repository")

    def require(self, call: Call, group: AdminGroup, model: str | None = None) -> str:
        """Who makes an admin call: "socket", "token", an address, or whom the door knows. Raises
        NotAllowed for a caller who may not, and for calls that nobody may make; the text names the
        flag. By a policy it also raises ModelHidden for a model of which he may not know.

        model: that the call changes; None where it changes none.
        """
        visit = call.visit
        if visit is not None and (self._by_policy or visit.name in ADMINS):
            visit.require(_ACTIONS[group], model)
            who = visit.name
        else:
            if visit is not None and (model is not None or not visit.action):
                visit.action, visit.target = _ACTIONS[group], model or ""
            who = self._by_mode(call, group)
        if group == "repository" and not self._explicit:
            raise NotAllowed("models are loaded by call only with --model-control explicit")
        if group == "memory" and not self.memory:
            raise NotAllowed("shared memory is off: --shared-memory PREFIX turns it on")
        return who

    def _by_mode(self, call: Call, group: AdminGroup) -> str:
        caller = call.caller
        who = self.identity(caller)
        if who is None:
            if self._mode != "open" and group not in self._opened:
                raise NotAllowed(self._refusal(caller, group))
            who = f"address {caller.address}" if call.visit is None else call.visit.name
        return who

    def _refusal(self, caller: Caller, group: AdminGroup) -> str:
        if self._mode == "off":
            return "admin calls are off: --admin socket, token or open permits them"
        if self._token is None:
            ways = "the admin socket takes it, and so does a server with --admin token"
        elif caller.authorization:
            ways = "'authorization' has not the token of --admin-token-file"
        else:
            ways = "it needs 'authorization: Bearer TOKEN'"
        return (
            f"admin call refused to {quoted(caller.address)}: {ways}; --admin-open {group} permits "
            "it to everybody"
        )


def admin_of(config: ServerConfig) -> Admin:
    """The admin access that the settings give. Warns where strangers may change the server. Raises
    StartError for a token that cannot be used."""
    token = TokenFile(config.admin_token_file) if config.admin_token_file else None
    opened = config.opened_groups
    if config.admin == "open" or opened:
        what = "all" if config.admin == "open" else ",".join(sorted(opened))
        logger.warning("everybody who reaches the ports is admin", extra={"of": what})
    return Admin(
        config.admin,
        opened,
        token,
        explicit=config.model_control == "explicit",
        memory=config.shared_memory is not None,
        by_policy=config.policy is not None,
    )
