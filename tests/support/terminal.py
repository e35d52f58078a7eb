"""A command on a terminal of its own, as a person has it."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

# Makes a pseudo-terminal, in which the command leads the session that Ctrl-C interrupts.
_SPAWN = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""
# Seconds of anything, on a machine that is busy.
_LONG = 120.0
# Seconds after which a key that interrupts is pressed again.
_AGAIN = 10.0
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """`with Terminal([...]) as terminal`. What the command prints comes as one text."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SPAWN, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm", **(environment or {})},
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._keys, self._screen = self._process.stdin, self._process.stdout
        self.text = ""
        self._seen = 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()  # the terminal hangs up, and the command with it
        self._process.wait()
        self._keys.close()
        self._screen.close()

    def type(self, keys: str) -> None:
        """Presses keys; \\n is Enter, \\t Tab."""
        self._keys.write(keys.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Waits until a pattern is in the text after the one that was found before."""
        limit = time.monotonic() + _LONG
        while (found := re.compile(pattern).search(self.text, self._seen)) is None:
            assert self._read(limit), f"expected {pattern!r} in {self.text[self._seen :]!r}"
        self._seen = found.end()
        return found

    def interrupt(self, key: str, pattern: str) -> None:
        """Presses Ctrl-C or Ctrl-D, and waits for a pattern. A signal that comes in the moment
        between a question and the wait for its answer is noticed with the next key alone, as in any
        program of Python: so it is pressed again where nothing comes."""
        for _ in range(round(_LONG / _AGAIN)):
            self.type(key)
            if self._found(pattern, time.monotonic() + _AGAIN):
                return
        raise AssertionError(f"expected {pattern!r} in {self.text[self._seen :]!r}")

    def _found(self, pattern: str, limit: float) -> bool:
        while re.compile(pattern).search(self.text, self._seen) is None:
            left = max(0.0, limit - time.monotonic())
            if not select.select([self._screen], [], [], left)[0]:
                return False
            assert self._read(limit), f"expected {pattern!r} in {self.text[self._seen :]!r}"
        return True

    def end(self) -> int:
        """Waits for the end of the command; its exit status."""
        limit = time.monotonic() + _LONG
        while self._read(limit):
            pass
        return self._process.wait(_LONG)

    def _read(self, limit: float) -> bool:
        ready, _, _ = select.select([self._screen], [], [], max(0.0, limit - time.monotonic()))
        assert ready, f"nothing comes any more after {self.text!r}"
        some = os.read(self._screen.fileno(), 1 << 16)
        self.text += some.decode(errors="replace").replace("\r\n", "\n")
        return bool(some)
