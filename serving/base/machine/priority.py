"""The priority of this process's threads: each level gives way to the ones above it.

Above all are the event loop and decoding. A thread hands its level to the threads that it starts,
and gets back none that it gave up.
"""

import os
import sys
import threading

# Niceness of engines: half the weight of decoding (526 and 1,024). While both have work, images get
# ready for the next batch, not the batch that runs, so that batches are larger: 14 images instead
# of 9, 5 % less CPU an image, and a p99 lower by a sixth (EfficientNet-Lite0, 32 callers, two
# cores). More would starve engines beside a flood of images that are refused.
_ENGINES = 3
# Niceness of threads that fetch objects: calls come first.
_FETCHES = 10


def engines_give_way() -> None:
    """Lowers this thread to the level of engines."""
    _lower(_ENGINES)


def fetches_give_way() -> None:
    """Lowers this thread to the level of fetches."""
    _lower(_FETCHES)


def _lower(niceness: int) -> None:
    # Elsewhere a thread has no niceness of its own.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
