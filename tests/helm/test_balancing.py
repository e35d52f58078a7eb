"""Two real servers behind a real Envoy, and behind a client that balances by itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.helm.balancer import Envoy
from tests.helm.load import BALANCED, NO_RETRY, Load
from tests.helm.tools import CHART, free_ports
from tests.support.process import ServerProcess

CALLS = 400
# A server goes on serving for up to half of it while balancers learn that it is not ready.
DRAIN_SECONDS = "8"
MIN_READY_SECONDS = yaml.safe_load((CHART / "values.yaml").read_text())["minReadySeconds"]


class Pair:
    """Two servers, each of which can be started anew on the port that it had."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self._repository = repository
        self._cache = cache
        self._ports = free_ports(2)
        self.servers = [self._start(port) for port in self._ports]
        for server in self.servers:
            server.wait_ready()

    def _start(self, port: int) -> ServerProcess:
        # The last --grpc-port counts.
        flags = ("--grpc-port", str(port), "--drain-seconds", DRAIN_SECONDS)
        return ServerProcess(self._repository, *flags, cache=self._cache)

    @property
    def urls(self) -> list[str]:
        """Where the two listen."""
        return [server.url for server in self.servers]

    def answered(self) -> list[float]:
        """Calls that each has answered."""
        sample = 'nv_inference_request_success{model="colours",version="1"}'
        return [server.metric(sample) for server in self.servers]

    def restart(self, index: int) -> None:
        """SIGTERM, and a new server in its place once it has ended."""
        assert self.servers[index].terminate() == 0
        self.servers[index] = self._start(self._ports[index]).wait_ready()
        # A rollout goes on after minReadySeconds; by then callers must have found the new server.
        end = time.monotonic() + MIN_READY_SECONDS
        while not self.answered()[index]:
            assert time.monotonic() < end, "nobody calls the new server"
            time.sleep(0.05)  # between two looks at a counter

    def close(self) -> None:
        """Ends both."""
        for server in self.servers:
            server.kill()


@pytest.fixture
def pair(colours: Path, cache: Path) -> Iterator[Pair]:
    """Two fresh servers."""
    running = Pair(colours, cache)
    yield running
    running.close()


@contextmanager
def _through_envoy(pair: Pair, folder: Path) -> Iterator[Load]:
    """A client that knows nothing of balancing and does not retry."""
    envoy = Envoy(folder, pair.urls)
    load = Load(envoy.url, NO_RETRY)
    try:
        yield load
    finally:
        load.stop()
        envoy.stop()


@contextmanager
def _round_robin(pair: Pair, folder: Path) -> Iterator[Load]:
    """A client that knows both addresses, as the name of a headless Service gives them."""
    load = Load(f"ipv4:{','.join(pair.urls)}", BALANCED)
    try:
        yield load
    finally:
        load.stop()


Way = Callable[[Pair, Path], AbstractContextManager[Load]]
each_way = pytest.mark.parametrize("way", [_through_envoy, _round_robin])


def test_one_connection_stays_with_one_server_without_a_balancer(pair: Pair) -> None:
    load = Load(f"ipv4:{','.join(pair.urls)}", NO_RETRY).wait_for(CALLS // 4)
    assert set(load.stop()) == {"OK"}
    assert min(pair.answered()) == 0


@each_way
def test_calls_are_spread_evenly(way: Way, pair: Pair, tmp_path: Path) -> None:
    with way(pair, tmp_path) as load:
        load.wait_for(CALLS)
        assert set(load.stop()) == {"OK"}
    first, second = pair.answered()
    assert first + second >= CALLS
    assert abs(first - second) <= 0.1 * (first + second)


@each_way
def test_a_killed_server_loses_nothing(way: Way, pair: Pair, tmp_path: Path) -> None:
    with way(pair, tmp_path) as load:
        load.wait_for(CALLS // 2)
        pair.servers[0].kill()
        load.wait_for(CALLS)
        assert set(load.stop()) == {"OK"}, load.failures


@each_way
def test_a_rolling_restart_fails_no_call(way: Way, pair: Pair, tmp_path: Path) -> None:
    with way(pair, tmp_path) as load:
        for index in range(2):
            load.wait_for(CALLS // 2)
            pair.restart(index)
        load.wait_for(CALLS)
        assert set(load.stop()) == {"OK"}, load.failures
