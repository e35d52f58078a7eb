"""Whoever sends many images does not hold up those of others, who come from another address."""

import contextlib
import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from serving.client import VisionClient
from tests.support.pictures import encoded
from tests.support.process import ServerProcess
from tests.support.published import publish

FLOOD = "127.0.0.66"
# Calls, each with an image that takes some 30 ms to decode, of which several are under way.
CALLS = 60
SIDE = 1000
_SECONDS = 60


def test_an_image_waits_for_one_more_of_a_flood_and_no_longer(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path).wait_ready()
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    large, small = encoded(noise, "PNG"), np.full((8, 8, 3), 90, np.uint8)
    split = urlsplit(server.http)
    assert split.hostname is not None

    def flood() -> int:
        connection = http.client.HTTPConnection(
            str(split.hostname), split.port, timeout=_SECONDS, source_address=(FLOOD, 0)
        )
        with contextlib.closing(connection):
            connection.request("POST", "/vision/v1/models/colours/classify", large)
            return connection.getresponse().status

    with VisionClient(server.url) as client, ThreadPoolExecutor(CALLS) as threads:
        client.classify("colours", encoded(small, "PNG"))
        calls = [threads.submit(flood) for _ in range(CALLS)]
        held = 'convserve_memory_held_bytes{use="message"}'
        end = time.monotonic() + _SECONDS
        while server.metric(held) < len(large) * CALLS / 2:
            assert time.monotonic() < end, "the flood did not arrive"
        before = sum(call.done() for call in calls)
        client.classify("colours", encoded(small, "PNG"))
        meanwhile = sum(call.done() for call in calls) - before
        # Each was answered; had they gone first, half of them and more would have been by then.
        assert meanwhile < CALLS / 4
        assert {call.result() for call in as_completed(calls)} == {200}
