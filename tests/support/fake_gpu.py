"""TensorRT, CUDA and NVML that need no GPU, for this process or for one that a test starts."""

import atexit
import functools
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import engines
from serving.base.machine import nvml

FOLDER = Path(__file__).parent / "fake_gpu"
# Modules that hold on to the runtime that they were imported with.
_TIED = (
    "serving.engines.cuda", "serving.engines.tensorrt.build", "serving.engines.tensorrt.engine",
    "serving.engines.tensorrt.log",
)  # fmt: skip


@functools.cache
def built_library() -> Path:
    """The library, compiled; skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler (cc) is needed for the stand-in of NVML")
    folder = tempfile.mkdtemp(prefix="convserve-nvml-")
    atexit.register(shutil.rmtree, folder)
    library = Path(folder) / nvml.LIBRARY
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(FOLDER / "nvml.c")]
    subprocess.run(command, check=True)
    return library


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process that shall see two GPUs."""
    return {
        **os.environ,
        "PYTHONPATH": str(FOLDER),
        "LD_LIBRARY_PATH": str(built_library().parent),
        **settings,
    }


@contextmanager
def in_this_process(monkeypatch: pytest.MonkeyPatch, **settings: str) -> Iterator[None]:
    """Two GPUs, until the end of the block."""
    with monkeypatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setattr(nvml, "LIBRARY", str(built_library()))
        patch.syspath_prepend(str(FOLDER))
        _forget()
        importlib.invalidate_caches()
        yield
    _forget()


def _forget() -> None:
    nvml.gpus.cache_clear()
    nvml._library.cache_clear()
    for name in list(sys.modules):
        if name in _TIED or name.split(".")[0] in ("cuda", "tensorrt"):
            del sys.modules[name]
    for name in _TIED:
        vars(engines).pop(name.rpartition(".")[2], None)
