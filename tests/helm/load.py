"""Callers in the background: what became of every call they made."""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence

import grpc
import numpy as np

from protos.gen import vision_pb2 as pb
from protos.gen import vision_pb2_grpc

_GREEN = np.zeros((8, 8, 3), np.uint8)
_GREEN[..., 1] = 200
REQUEST = pb.ClassifyRequest(
    model="colours",
    images=[pb.Image(raw=pb.RawImage(height=8, width=8, rgb=_GREEN.tobytes()))],
)
# What the documentation tells a client to set: calls go to all addresses in turn, and one that was
# refused, or whose server is gone, is tried again on another.
SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Without it a client stays with a draining server until that closes the connection.
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)
NO_RETRY = (("grpc.enable_retries", 0),)
BALANCED = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    # gRPC's own patience, minutes with a server and half a minute with names, outlasts a rollout.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)


class Load:
    """Calls Classify from some threads until stopped, a pause after each call.

    leave_when_refused: a thread ends with its first UNAVAILABLE, as a caller does who has another
    server to go to.
    """

    def __init__(
        self,
        target: str,
        options: Sequence[tuple[str, int | str]] = (),
        *,
        threads: int = 4,
        pause: float = 0.005,
        leave_when_refused: bool = False,
    ) -> None:
        self.codes: Counter[str] = Counter()
        self.failures: list[str] = []
        self._channel = grpc.insecure_channel(target, options=list(options))
        self._stub = vision_pb2_grpc.VisionServiceStub(self._channel)
        self._pause = pause
        self._leave_when_refused = leave_when_refused
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._stopped.wait(self._pause):
            try:
                response = self._stub.Classify(REQUEST, timeout=20)
                name = response.results[0].labels[0].name
                code = "OK" if name == "green" else f"answered {name!r}"
                text = ""
            except grpc.RpcError as error:
                code, text = error.code().name, error.details() or ""
            with self._lock:
                self.codes[code] += 1
                if text:
                    self.failures.append(f"{code}: {text}")
            if code == "UNAVAILABLE" and self._leave_when_refused:
                return

    def wait_for(self, answers: int) -> "Load":
        """Returns when this many more calls were answered."""
        goal = self.codes["OK"] + answers
        end = time.monotonic() + 60
        while self.codes["OK"] < goal:
            assert time.monotonic() < end, (self.codes, self.failures[:3])
            time.sleep(0.01)  # between two looks at a counter
        return self

    def stop(self) -> Counter[str]:
        """Waits for the calls under way; how many calls ended with which code."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()
        return self.codes
