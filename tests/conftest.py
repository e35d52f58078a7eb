"""Fixtures for every folder of tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.server.wire import native_missing
from tests.support.process import ServerProcess, token_flags
from tests.support.published import publish

# Every server is on the wire of CONVSERVE_WIRE. Where that is not set, tests that ask for `wire`
# run over each that runs here.
_WIRES = (
    [os.environ["CONVSERVE_WIRE"]]
    if "CONVSERVE_WIRE" in os.environ
    else ["grpcio", *(["native"] if native_missing() is None else [])]
)


@pytest.fixture(scope="module", params=_WIRES)
def wire(request: pytest.FixtureRequest) -> Iterator[str]:
    """The wire of the servers that the test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVSERVE_WIRE", request.param)
        yield request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: where processes share the tests by files, the last
    ones are short, and none ends long before the others."""
    training = Path(__file__).parent / "training"
    items.sort(key=lambda item: not item.path.is_relative_to(training))


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
    running.wait_for_log("model ready")  # ready first, logged then; tests look at lines after it
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
