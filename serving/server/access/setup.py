"""Access as the settings have it: its parts, and their work in the background."""

import asyncio
import contextlib

from serving.base.metrics import FrontMetrics
from serving.server.access.audit import Audit
from serving.server.access.door import Door
from serving.server.access.followed import Followed
from serving.server.access.identity import Admins, Identities, NoTokens
from serving.server.access.keys import ApiKeys, parse_keys
from serving.server.access.policy import parse_policy
from serving.server.config import ServerConfig

# Seconds between two looks at the files. Longer costs less and follows later.
_LOOK_SECONDS = 1.0


class Access:
    """Who may come in.

    door: decides; None where callers are not told apart and nothing is recorded.
    """

    def __init__(
        self,
        config: ServerConfig,
        admins: Admins,
        metrics: FrontMetrics,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        """Raises StartError for files that cannot be used."""
        failures = metrics.access_failures
        self._look_seconds = look_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._keys = self._policy = self._tokens = self.door = None
        if config.api_keys is not None:
            self._keys = Followed(
                "--api-keys", config.api_keys, lambda text: ApiKeys(parse_keys(text)), failures
            )
        if config.policy is not None:
            self._policy = Followed("--policy", config.policy, parse_policy, failures)
        if config.jwt is not None:
            # Only here, since it brings cryptography.
            from serving.server.access.tokens import Tokens

            self._tokens = Tokens(config.jwt, failures)
        audited = config.knows_callers if config.audit is None else config.audit
        if config.knows_callers or audited:
            certificates = config.tls_client_ca is not None
            # A wrong token of an admin is no anonymous caller's.
            others = NoTokens() if config.knows_callers and config.admin_token_file else None
            tokens = self._tokens or others
            self.door = Door(
                Identities(admins, tokens, self._keys, certificates=certificates),
                self._policy,
                Audit(config.audit_sample) if audited else None,
                metrics,
                known_alone=config.knows_callers,
            )

    async def start(self) -> None:
        """Begins to follow the files and the keys of tokens, which it waits for a few seconds."""
        loop = asyncio.get_running_loop()
        if self._tokens is not None:
            await self._tokens.start()
            self._tasks.append(loop.create_task(self._tokens.follow()))
        if self._keys is not None or self._policy is not None:
            self._tasks.append(loop.create_task(self._follow()))

    async def stop(self) -> None:
        """Ends that."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        files = [file for file in (self._keys, self._policy) if file is not None]
        while True:
            await asyncio.sleep(self._look_seconds)
            for file in files:
                take = await asyncio.to_thread(file.follow)
                if take is not None:
                    take()
