"""A folder to put first on PYTHONPATH: ONNX Runtime in it crashes or hangs for files that say so.

It is found by a server, by its engine process and by its loader process alike, so that a test sees
which of them has opened a file.
"""

import os
from pathlib import Path
from typing import Literal

import onnx

Fate = Literal["crash", "hang"]

_RUNTIME = '''
"""Stands before the real package, and becomes it."""

import os
import signal
import sys
import time

_folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_path = list(sys.path)
sys.path[:] = [entry for entry in _path if os.path.abspath(entry) != _folder]
del sys.modules["onnxruntime"]
import onnxruntime
sys.path[:] = _path


class InferenceSession(onnxruntime.InferenceSession):
    def __init__(self, file, *arguments, **options):
        with open(file, "rb") as stream:
            content = stream.read()
        if b"fate:crash" in content:
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        while b"fate:hang" in content:
            time.sleep(1)
        super().__init__(file, *arguments, **options)


onnxruntime.InferenceSession = InferenceSession
'''


def deadly_path(folder: Path) -> str:
    """Writes the package; the PYTHONPATH with which it is found first."""
    package = folder / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_RUNTIME)
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def doom(file: Path, fate: Fate) -> None:
    """Has a model file say how its runtime ends."""
    model = onnx.load(file)
    model.doc_string = f"fate:{fate}"
    onnx.save(model, file)
