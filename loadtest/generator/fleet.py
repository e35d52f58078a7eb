"""The worker processes, seen from the parent."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType, TracebackType
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.generator import worker
from loadtest.generator.arrivals import Arrivals
from loadtest.generator.player import WorkerShare
from loadtest.generator.worker import Done, Play, Ready, Stop, Workload

# Seconds from the order to play to the start: more delays each phase, less than the order takes to
# reach every worker makes requests late.
_LEAD = 0.1
# Seconds between two calls of `watch` at most.
_TICK = 0.1
# Signals that reach the whole process group: SIGINT by Ctrl-C, SIGTERM by `timeout`.
_ENDING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Played:
    """The outcome of a phase.

    chunks: packed records.
    started: Unix time of the start.
    stopped: seconds from the start until the phase was told to end early; None where it was not.
    elapsed: seconds from the order to play, which comes `_LEAD` before the start, to the end.
    cpu: CPU seconds of the parent and all workers in `elapsed`.
    interrupted: whether the user ended it.
    """

    chunks: list[bytes]
    started: float
    stopped: float | None
    elapsed: float
    cpu: float
    interrupted: bool


class Interrupt:
    """Turns the first Ctrl-C or SIGTERM into a flag; the second one ends the program."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        for number in _ENDING:
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Fleet:
    """Starts the workers and has them play phases. Raises LoadTestError where a worker dies.

    Workers are spawned, as gRPC does not survive a fork.
    """

    def __init__(self, workload: Workload, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        try:
            with _signals_blocked():
                for number in range(workers):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=worker.main, args=(workload, number, workers, theirs), daemon=True
                    )
                    process.start()
                    theirs.close()
                    self._pipes.append(ours)
                    self._processes.append(process)
            for pipe in self._pipes:
                if not isinstance(self._receive(pipe), Ready):
                    raise LoadTestError("a generator process did not start as expected")
        except BaseException:
            self._end(at_once=True)
            raise

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(at_once=error is not None)

    def _end(self, *, at_once: bool) -> None:
        """Ends the workers. One whose pipe is closed ends by itself, and complains on stderr where
        it had something to say; `at_once` spares that."""
        if at_once:
            for process in self._processes:
                process.kill()
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()

    def play(
        self,
        url: str,
        arrivals: Arrivals,
        seconds: float,
        *,
        seed: int,
        max_in_flight: int,
        requests: int,
        interrupt: Interrupt,
        watch: Callable[[float, Sequence[bytes]], bool],
    ) -> Played:
        """Plays one phase.

        watch: called every tick with the seconds since the start and the packed records since
            the last call; True ends the phase early.
        """
        cpu = time.process_time()
        ordered = time.monotonic()
        start = ordered + _LEAD
        started = time.time() + _LEAD
        count = len(self._pipes)
        for number, pipe in enumerate(self._pipes):
            share = WorkerShare(
                arrivals, seconds, start, seed, number, count, -(-max_in_flight // count), requests
            )
            pipe.send(Play(url, share))
        chunks: list[bytes] = []
        workers_cpu = 0.0
        playing = set(self._pipes)
        stopped: float | None = None
        seen = 0
        while playing:
            readable = wait(list(playing), _TICK)
            for pipe in [p for p in playing if p in readable]:
                message = self._receive(pipe)
                if isinstance(message, bytes):
                    chunks.append(message)
                elif isinstance(message, Done):
                    workers_cpu += message.cpu
                    playing.discard(pipe)
            enough = watch(time.monotonic() - start, chunks[seen:])
            seen = len(chunks)
            if (enough or interrupt.requested) and stopped is None:
                stopped = time.monotonic() - start
                for pipe in playing:
                    pipe.send(Stop())
        elapsed = time.monotonic() - ordered
        cpu = time.process_time() - cpu + workers_cpu
        return Played(chunks, started, stopped, elapsed, cpu, interrupt.requested)

    def _receive(self, pipe: Connection) -> object:
        try:
            return pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise LoadTestError(
                "a generator process ended on its own; it says why above"
            ) from error


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks the signals that end the program in this thread and, for good, in processes that it
    starts: the parent alone decides when they stop."""
    # Starting a process starts the tracker first, which would unblock them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
