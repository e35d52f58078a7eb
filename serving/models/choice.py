"""Which variants run here, which of them is the fastest, and why the others are not served."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.base.errors import EngineError, EngineUnavailable, ModelLoadError
from serving.engines import ENGINES, Engine, EngineOptions, installed_version
from serving.engines.measure import device_name

# A candidate must be this much faster than a simpler one to be taken instead of it: less is within
# the noise of a measurement, and would make replicas of one service differ.
CLEARLY_FASTER = 0.9
# A candidate that takes so many times as long for the smallest batch does not win with large ones.
FAR_SLOWER = 2.0


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
    sizes: Sequence[int],
    load: Callable[[Candidate], Engine],
    admit: Callable[[Candidate], None],
    check: Callable[[Candidate, Engine], None],
    known: Callable[[Candidate], dict[int, float] | None],
    measure: Callable[[Candidate, Engine, Sequence[int]], dict[int, float]],
) -> Choice:
    """Loads, checks and times the candidates and keeps the simplest of the fastest.

    Candidates stand in order, the simplest first, and so do `sizes`, the batch sizes whose latency
    is wanted. Large batches take the most time to measure: every candidate is timed with the
    smallest, those not FAR_SLOWER with the largest, and the one that is taken with the rest. What
    is `known` from an earlier start is not measured again; who loses by it is not loaded.
    `admit`, before a runtime sees the file, `load` and `check`, once it is loaded, and `measure`
    raise ModelLoadError or EngineError to refuse a candidate.
    Raises EngineUnavailable, with the reason of each, where none can be served.
    """
    rejected: list[str] = []
    latencies = {candidate: known(candidate) or {} for candidate in candidates}
    loaded: dict[Candidate, Engine] = {}

    def refuse(candidate: Candidate, error: Exception) -> None:
        rejected.append(f"{candidate}: {error}")
        del latencies[candidate]
        if candidate in loaded:
            loaded.pop(candidate).close()

    def bring_up(candidate: Candidate) -> bool:
        if candidate in loaded:
            return True
        try:
            admit(candidate)
            loaded[candidate] = load(candidate)
            check(candidate, loaded[candidate])
        except (ModelLoadError, EngineError) as error:
            refuse(candidate, error)
            return False
        return True

    def time(candidate: Candidate, wanted: Sequence[int]) -> bool:
        missing = [size for size in wanted if size not in latencies[candidate]]
        if missing:
            if not bring_up(candidate):
                return False
            try:
                latencies[candidate] |= measure(candidate, loaded[candidate], missing)
            except (ModelLoadError, EngineError) as error:
                refuse(candidate, error)
                return False
        return True

    def close(losers: Iterable[Candidate]) -> None:
        for candidate in losers:
            if candidate in loaded:
                loaded.pop(candidate).close()

    def far_slower() -> set[Candidate]:
        alone = {c: latency[sizes[0]] for c, latency in latencies.items() if sizes[0] in latency}
        return {c for c, seconds in alone.items() if seconds > FAR_SLOWER * min(alone.values())}

    # Losers are closed before the next one takes memory beside them.
    for candidate in candidates:
        if time(candidate, sizes[:1]):
            close(far_slower())
    while latencies:
        contest = [c for c in candidates if c in latencies and c not in far_slower()]
        scores: dict[Candidate, float] = {}
        for candidate in contest:
            if not time(candidate, (sizes[0], sizes[-1])):
                break
            scores[candidate] = score(latencies[candidate])
            limit = min(scores.values())
            close(c for c, seconds in scores.items() if seconds * CLEARLY_FASTER > limit)
        if len(scores) < len(contest):
            continue
        best = next(c for c in contest if scores[c] * CLEARLY_FASTER <= limit)
        close(candidate for candidate in contest if candidate != best)
        if bring_up(best) and time(best, sizes):
            break
    else:
        raise EngineUnavailable("no variant can be served: " + "; ".join(rejected))
    for candidate, latency in latencies.items():
        if candidate in scores and candidate != best:
            found, against = scores[candidate], scores[best]
            rejected.append(
                f"{candidate}: slower here, {found * 1e3:.2f} ms an image against "
                f"{against * 1e3:.2f} ms"
            )
        elif candidate != best:
            found, against = latency[sizes[0]], latencies[best][sizes[0]]
            rejected.append(
                f"{candidate}: slower here, {found * 1e3:.2f} ms for a batch of {sizes[0]} against "
                f"{against * 1e3:.2f} ms"
            )
    return Choice(best, loaded[best], dict(sorted(latencies[best].items())), tuple(rejected))


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
