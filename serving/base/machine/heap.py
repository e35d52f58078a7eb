"""Memory that runtimes have freed and glibc keeps. With other C libraries nothing is done."""

import ctypes

_library = ctypes.CDLL(None)
_trim = getattr(_library, "malloc_trim", None)
_option = getattr(_library, "mallopt", None) if _trim is not None else None
_M_ARENA_MAX = -8


def limit_arenas(cores: int) -> None:
    """Allows one heap for each core instead of eight. Each load starts threads, which would spread
    over all heaps and leave unused memory in each. To be called before threads start."""
    if _option is not None:
        _option(_M_ARENA_MAX, cores)


def trim_heap() -> None:
    """Gives freed memory back to the system."""
    if _trim is not None:
        _trim(0)
