"""Which variants run here, which of them is the fastest, and why the others are not served."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.engines import ENGINES, Engine, EngineOptions, installed_version
from serving.engines.measure import device_name
from serving.errors import EngineError, EngineUnavailable, ModelLoadError

# A candidate must be this much faster than a simpler one to be taken instead of it: less is within
# the noise of a measurement, and would make replicas of one service differ.
CLEARLY_FASTER = 0.9


@dataclass(frozen=True)
class Candidate:
    """One file, in the precision and by the engine that could run it."""

    variant: str
    engine: str
    precision: str
    file: Path

    def __str__(self) -> str:
        return f"{self.variant} in {self.engine}"


@dataclass(frozen=True)
class Choice:
    """What is served: the loaded engine, its latency in seconds by batch size, and a line for each
    candidate that was not taken."""

    candidate: Candidate
    engine: Engine
    latency: dict[int, float]
    rejected: tuple[str, ...]


def choose(
    candidates: Sequence[Candidate],
    load: Callable[[Candidate], Engine],
    admit: Callable[[Candidate], None],
    check: Callable[[Candidate, Engine], None],
    known: Callable[[Candidate], dict[int, float] | None],
    measure: Callable[[Candidate, Engine], dict[int, float]],
) -> Choice:
    """Loads, checks and times the candidates and keeps the simplest of the fastest. One whose
    latency is `known` from an earlier start is loaded only where it wins.

    Candidates stand in order, the simplest first. `admit`, before a runtime sees the file, `load`
    and `check`, once it is loaded, raise ModelLoadError to refuse one.
    Raises EngineUnavailable, with the reason of each, where none can be served.
    """
    rejected: list[str] = []
    latencies: dict[Candidate, dict[int, float]] = {}
    loaded: dict[Candidate, Engine] = {}

    def bring_up(candidate: Candidate) -> bool:
        engine = None
        try:
            admit(candidate)
            engine = load(candidate)
            check(candidate, engine)
            if candidate not in latencies:
                latencies[candidate] = measure(candidate, engine)
        except (ModelLoadError, EngineError) as error:
            rejected.append(f"{candidate}: {error}")
            if engine is not None:
                engine.close()
            return False
        loaded[candidate] = engine
        close_losers()
        return True

    def close_losers() -> None:
        """Frees what cannot be chosen any more, before the next takes memory beside it."""
        scores = {candidate: score(latencies[candidate]) for candidate in loaded}
        for candidate, seconds in scores.items():
            if seconds * CLEARLY_FASTER > min(scores.values()):
                loaded.pop(candidate).close()

    for candidate in candidates:
        latency = known(candidate)
        if latency is None:
            bring_up(candidate)
        else:
            latencies[candidate] = latency
    while latencies:
        scores = {candidate: score(latency) for candidate, latency in latencies.items()}
        limit = min(scores.values())
        best = next(
            candidate
            for candidate in candidates
            if candidate in scores and scores[candidate] * CLEARLY_FASTER <= limit
        )
        if best in loaded or bring_up(best):
            break
        del latencies[best]
    else:
        raise EngineUnavailable("no variant can be served: " + "; ".join(rejected))
    for candidate, seconds in scores.items():
        if candidate != best:
            rejected.append(
                f"{candidate}: slower here, {seconds * 1e3:.2f} ms an image "
                f"against {scores[best] * 1e3:.2f} ms"
            )
            if candidate in loaded:
                loaded[candidate].close()
    return Choice(best, loaded[best], latencies[best], tuple(rejected))


def score(latency: dict[int, float]) -> float:
    """Seconds an image: the geometric mean of a single one and of one in the largest batch."""
    smallest, largest = min(latency), max(latency)
    return math.sqrt(latency[smallest] / smallest * latency[largest] / largest)


def latency_key(candidate: Candidate, sha256: str, options: EngineOptions) -> str:
    """A name under which a measurement may be kept: it holds for this artefact, engine and machine
    only."""
    parts = (
        sha256,
        candidate.precision,
        candidate.engine,
        installed_version(candidate.engine),
        device_name(ENGINES[candidate.engine].device),
        str(options.devices),
        str(options.graph_batch_sizes),
        str(options.instances),
        str(options.threads),
        str(options.max_batch_size),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
