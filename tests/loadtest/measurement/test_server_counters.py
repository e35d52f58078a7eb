import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from loadtest.errors import LoadTestError
from loadtest.measurement.server_counters import Observed, Observer, difference
from loadtest.measurement.server_process import local_server, usage

METRICS = """
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m",version="1"} 10
nv_inference_request_success{model="other",version="1"} 99
# TYPE nv_inference_count counter
nv_inference_count{model="m",version="1"} 20
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="m",version="1"} 5
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="m",version="1"} 30000
"""


@pytest.fixture
def asked() -> list[str]:
    """The paths that were asked for."""
    return []


@pytest.fixture
def metrics_url(asked: list[str]) -> Iterator[str]:
    """Serves METRICS; /moved leads to it."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302 if self.path == "/moved" else 200)
            if self.path == "/moved":
                self.send_header("Location", "/")
            self.end_headers()
            self.wfile.write(METRICS.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_counters_of_the_models_are_read_from_metrics(metrics_url: str) -> None:
    found = Observer("http://127.0.0.1:1", ["m:1"], metrics_url).look().metrics
    assert found == {"requests": 10, "inferences": 20, "executions": 5, "queue": 0.03}


@pytest.mark.parametrize("page", ["x" * (17 << 20), "nv_inference_count{model="])
def test_metrics_that_cannot_be_read_are_named(
    page: str, metrics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "METRICS", page)
    with pytest.raises(LoadTestError, match=r"--metrics-url .*: "):
        Observer("http://127.0.0.1:1", ["m"], metrics_url)


def test_credentials_follow_no_redirect(metrics_url: str, asked: list[str]) -> None:
    with pytest.raises(LoadTestError, match=r"--metrics-url .*: HTTP Error 302"):
        Observer("http://127.0.0.1:1", ["m"], f"{metrics_url}/moved", headers={"x-api-key": "a"})
    assert asked == ["/moved"]


def test_metrics_that_are_not_there_are_named() -> None:
    with pytest.raises(LoadTestError, match="--metrics-url"):
        Observer("http://127.0.0.1:1", ["m"], "http://127.0.0.1:1/metrics")


def test_what_happened_in_between_is_a_difference() -> None:
    before = Observed(10.0, {"inferences": 100, "executions": 50, "requests": 80}, {}, 3.0, 1000)
    after = Observed(
        20.0,
        {"inferences": 180, "executions": 70, "requests": 120, "queue": 0.4},
        {},
        8.0,
        2000,
    )
    found = difference(before, after)
    assert found["cpu"] == pytest.approx(0.5)
    assert found["resident_bytes"] == 2000
    assert found["statistics"]["mean_batch_size"] == pytest.approx(4.0)
    assert found["statistics"]["requests"] == 40
    assert found["statistics"]["mean_ms"]["queue"] == pytest.approx(10.0)
    assert "metrics" not in found


def test_a_local_server_is_found_by_its_port() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert local_server(f"127.0.0.1:{port}") == os.getpid()
        assert local_server(f"http://localhost:{port}/") == os.getpid()
    assert local_server(f"127.0.0.1:{port}") is None
    assert local_server("192.0.2.1:80") is None
    cpu, resident = usage(os.getpid())
    assert cpu > 0
    assert resident > 1 << 20


def test_cpu_that_cannot_be_told_is_left_out() -> None:
    before = Observed(10.0, {}, {}, 3.0, 1000)
    # Two looks one after the other, and a helper process that has ended in between.
    for after in (Observed(10.002, {}, {}, 3.01, 1000), Observed(20.0, {}, {}, 2.5, 1000)):
        assert difference(before, after) == {"resident_bytes": 1000}


def test_counters_that_began_again_are_left_out() -> None:
    before = Observed(10.0, {"inferences": 100, "executions": 5, "requests": 100}, {}, 0.0, 0)
    after = Observed(20.0, {"inferences": 80, "executions": 40, "requests": 80}, {}, 0.0, 0)
    assert difference(before, after) == {}
