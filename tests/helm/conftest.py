"""Fixtures of the deployment tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helm.containers import Containers
from tests.helm.secured import Site
from tests.support.process import ServerProcess


@pytest.fixture(scope="session")
def containers() -> Containers:
    """Real images and containers on this machine."""
    return Containers()


@pytest.fixture(scope="module")
def site(colours: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Certificates, keys and policy of one module's servers."""
    return Site(tmp_path_factory.mktemp("access"), colours, cache)


@pytest.fixture(scope="module")
def secured(site: Site) -> Iterator[ServerProcess]:
    """A server that takes a certificate, a key or a token."""
    server = site.start(*site.made.mutual("--tls-client-auth", "optional"))
    yield server.wait_ready()
    server.kill()
