"""Fixtures for every folder of tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.process import ServerProcess, token_flags
from tests.support.published import publish


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of measurements for all servers of a run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one small model a task: colours, regions, points."""
    repository = tmp_path_factory.mktemp("repository")
    publish(repository, "colours", "classification")
    publish(repository, "regions", "segmentation")
    publish(repository, "points", "embedding")
    return repository


@pytest.fixture(scope="session")
def server(colours: Path, cache: Path) -> Iterator[ServerProcess]:
    """A server of `colours` for tests that leave it as it is. Who has the token is admin."""
    running = ServerProcess(colours, *token_flags(cache), cache=cache).wait_ready()
    yield running
    running.kill()


@pytest.fixture
def start_server(cache: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers for one test: start_server(repository, *flags)."""
    running: list[ServerProcess] = []

    def start(repository: Path, *flags: str) -> ServerProcess:
        running.append(ServerProcess(repository, *flags, cache=cache))
        return running[-1]

    yield start
    for server in running:
        server.kill()
