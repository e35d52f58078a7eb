"""Memory that a runtime has freed and the C library still holds."""

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim_heap() -> None:
    """Gives freed memory back to the system, with glibc; other C libraries do so by themselves."""
    if _trim is not None:
        _trim(0)
