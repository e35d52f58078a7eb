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
# Calls, each with a file of some KB that takes some 15 ms to decode: they all wait at once.
CALLS = 100
SIDE = 1400
_SECONDS = 60


def test_an_image_waits_for_one_more_of_a_flood_and_no_longer(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path).wait_ready()
    large, small = (encoded(np.full((side, side, 3), 90, np.uint8), "PNG") for side in (SIDE, 8))
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
        client.classify("colours", small)
        calls = [threads.submit(flood) for _ in range(CALLS)]
        held = 'convserve_memory_held_bytes{use="message"}'
        end = time.monotonic() + _SECONDS
        while server.metric(held) < len(large) * CALLS / 2:
            assert time.monotonic() < end, "the flood did not arrive"
        before = sum(call.done() for call in calls)
        client.classify("colours", small)
        meanwhile = sum(call.done() for call in calls) - before
        # Each was answered; had they gone first, half of them and more would have been by then.
        assert meanwhile < CALLS / 4
        assert {call.result() for call in as_completed(calls)} == {200}
