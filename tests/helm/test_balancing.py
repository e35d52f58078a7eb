"""Two real servers behind a real Envoy, and behind a client that balances by itself."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml

from protos.gen import vision_pb2_grpc
from serving.client import CallFailed, ClientTls, VisionClient
from serving.server.access.keys import ApiKey, digest_of, new_key
from tests.helm.balancer import CONFIG, START_SECONDS, TLS_CONFIG, Envoy
from tests.helm.load import BALANCED, NO_RETRY, REQUEST, Load
from tests.helm.tools import CHART, free_ports
from tests.support.certified import Certified
from tests.support.process import ServerProcess

CALLS = 400
LOAD_THREADS = 4
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
        return [self.answered_by(server) for server in self.servers]

    def answered_by(self, server: ServerProcess) -> float:
        """Calls that one has answered."""
        return server.metric('nv_inference_request_success{model="colours",version="1"}')

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


def test_a_killed_server_costs_a_client_that_tries_again_nothing(
    pair: Pair, tmp_path: Path
) -> None:
    with _round_robin(pair, tmp_path) as load:
        load.wait_for(CALLS // 2)
        pair.servers[0].kill()
        load.wait_for(CALLS)
        assert set(load.stop()) == {"OK"}, load.failures


def test_a_killed_server_costs_a_proxy_the_calls_that_it_had(pair: Pair, tmp_path: Path) -> None:
    with _through_envoy(pair, tmp_path) as load:
        load.wait_for(CALLS // 2)
        pair.servers[0].kill()
        load.wait_for(CALLS)
        codes = load.stop()
        assert set(codes) <= {"OK", "UNAVAILABLE"}, load.failures
        # One of each thread at most: all later ones go to the other server.
        assert codes["UNAVAILABLE"] <= LOAD_THREADS


@pytest.mark.parametrize(
    "asks", [(), (("x-envoy-retry-on", "reset"), ("x-forwarded-for", "10.0.0.1"))]
)
def test_a_call_whose_server_dies_visits_no_other(
    asks: tuple[tuple[str, str], ...], pair: Pair, tmp_path: Path
) -> None:
    """Also where the client asks for it, which Envoy heeds from addresses alone that it was told to
    trust: else one bad call would bring all servers down."""
    envoy = Envoy(tmp_path, pair.urls)
    stopped, other = pair.servers
    try:
        with grpc.insecure_channel(envoy.url, options=NO_RETRY) as channel:
            stub = vision_pb2_grpc.VisionServiceStub(channel)
            stopped.process.send_signal(signal.SIGSTOP)
            calls = [
                stub.Classify.future(REQUEST, metadata=asks, timeout=START_SECONDS)
                for _ in range(2)
            ]
            end = time.monotonic() + START_SECONDS
            while not (envoy.under_way(stopped.url) == 1 and any(c.done() for c in calls)):
                assert time.monotonic() < end
                time.sleep(0.01)  # between two looks at a condition that no event tells of
            stopped.kill()
            codes = sorted(call.code().name for call in calls)
        assert codes == ["OK", "UNAVAILABLE"]
        assert pair.answered_by(other) == 1
    finally:
        envoy.stop()


@each_way
def test_a_rolling_restart_fails_no_call(way: Way, pair: Pair, tmp_path: Path) -> None:
    with way(pair, tmp_path) as load:
        for index in range(2):
            load.wait_for(CALLS // 2)
            pair.restart(index)
        load.wait_for(CALLS)
        assert set(load.stop()) == {"OK"}, load.failures


@pytest.fixture
def secured(colours: Path, cache: Path, tmp_path: Path) -> Iterator[tuple[Certified, str, Envoy]]:
    """Envoy as the chart's example has it, before a server with TLS that wants a key; that key."""
    made = Certified(tmp_path / "tls")
    made.renew("vision-convserve.default.svc", "127.0.0.1")
    key, keys = new_key(), tmp_path / "keys"
    keys.write_text(ApiKey("mine", digest_of(key)).line() + "\n")
    flags = made.flags("--api-keys", str(keys))
    server = ServerProcess(colours, *flags, cache=cache, context=made.trusting.context())
    text = TLS_CONFIG.read_text().replace("33554437", "100000")
    for place, file in (
        ("tls/tls.crt", made.cert),
        ("tls/tls.key", made.key),
        ("ca/ca.crt", made.ca),
    ):
        text = text.replace(f"/etc/envoy/{place}", str(file))
    envoy = None
    try:
        server.wait_ready()
        envoy = Envoy(tmp_path, [server.url], text)
        yield made, key, envoy
    finally:
        if envoy is not None:
            envoy.stop()
        server.kill()


def test_envoy_of_the_chart_speaks_tls_on_both_sides_and_passes_on_who_calls(
    secured: tuple[Certified, str, Envoy],
) -> None:
    made, key, envoy = secured
    tls = ClientTls(made.ca)
    small = np.zeros((8, 8, 3), np.uint8)
    with VisionClient(envoy.url, tls=tls, headers={"x-api-key": key}) as client:
        client.classify("colours", small)
        assert len(list(client.classify_many("colours", [small] * 5))) == 5
        # Larger than the limit, which for this test is 100 kB; streams are bounded by the server.
        large = np.zeros((200, 200, 3), np.uint8)
        with pytest.raises(CallFailed) as failure:
            client.classify("colours", large)
        assert "Payload Too Large" in str(failure.value)
        [(_, answer)] = client.classify_many("colours", [large])
        assert not isinstance(answer, CallFailed)
    with VisionClient(envoy.url, tls=tls) as client, pytest.raises(CallFailed) as failure:
        client.classify("colours", small)
    assert failure.value.code == "UNAUTHENTICATED"


def test_both_configurations_of_envoy_balance_alike() -> None:
    def parts(file: Path) -> dict[str, object]:
        resources = yaml.safe_load(file.read_text())["static_resources"]
        [listener], [cluster] = resources["listeners"], resources["clusters"]
        [chain] = listener["filter_chains"]
        [host] = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        own = ("transport_socket", "load_assignment")
        return {
            "cluster": {key: value for key, value in cluster.items() if key not in own},
            "retries": host["retry_policy"],
            "route": host["routes"][-1]["route"],
        }

    assert parts(CONFIG) == parts(TLS_CONFIG)
    retried = str(parts(CONFIG)["retries"]["retry_on"]).split(",")  # type: ignore[index]
    assert "reset" not in retried
