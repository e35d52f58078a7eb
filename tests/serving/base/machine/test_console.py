"""Lines that native libraries print become log records; what is printed elsewhere does not."""

import json
import subprocess
import sys

WRITE = """
import json, logging, os, sys
from serving.base.machine import console

class Lines(logging.Handler):
    def emit(self, record):
        stream.write(json.dumps([record.name, record.levelname, record.getMessage()]) + "\\n")
        stream.flush()

print("before")
with console.logged() as stream:
    logging.basicConfig(level=logging.DEBUG, handlers=[Lines()])
    os.write(2, b"\\x1b[1;31m2026-01-01 00:00:00.1 [E:onnxruntime:, file.cc:1 Run] ")
    os.write(2, b"it failed\\x1b[m\\n")
    os.write(1, b"to standard output\\n\\xff\\n")
    os.write(2, b"without an end")
    {more}
print("after")
"""


def run(more: str = "pass") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", WRITE.replace("{more}", more)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_printed_comes_as_records() -> None:
    done = run()
    assert done.stdout == "before\nafter\n"
    assert [json.loads(line) for line in done.stderr.splitlines()] == [
        ["onnxruntime", "ERROR", "it failed"],
        ["console", "WARNING", "to standard output"],
        ["console", "WARNING", "\\xff"],
        ["console", "WARNING", "without an end"],
    ]


def test_more_than_the_pipe_holds_stops_nobody() -> None:
    # The thread cannot log while another holds the GIL, as a library that prints may.
    more = "import ctypes; ctypes.PyDLL(None).write(2, b'x' * (4 << 20), 4 << 20)"
    assert run(more).stdout == "before\nafter\n"


def test_a_crash_says_what_python_was_doing() -> None:
    done = run("import ctypes; ctypes.string_at(0)")
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr
    assert "string_at" in done.stderr
