"""Chooses the candidate that serves: the simplest one among the fastest on this machine."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.base.errors import EngineError, EngineUnavailable, ModelLoadError, quoted
from serving.base.text import summary
from serving.engines import Engine
from serving.models.loading.candidates import Candidate

# Share of a simpler candidate's time that another may need at most to take its place. Closer to 1,
# the noise of a measurement would decide, and replicas of one service would differ; smaller keeps
# slower but simpler candidates.
CLEARLY_FASTER = 0.9
# Multiple of the best time for the smallest batch from which on a candidate is not timed with the
# largest. Smaller saves loading time, larger keeps candidates that only gain with large batches.
FAR_SLOWER = 2.0


@dataclass(frozen=True)
class Choice:
    """The candidate that serves.

    candidate: its file, engine and precision.
    engine: the loaded engine.
    latency: seconds by batch size; empty where it could not be timed.
    rejected: a line for each candidate that was not taken.
    """

    candidate: Candidate
    engine: Engine
    latency: dict[int, float]
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """A choice without its engine, for another process.

    variant, engine: of the candidate.
    threads: CPU threads of each instance.
    latency, rejected: those of the choice.
    """

    variant: str
    engine: str
    threads: int
    latency: dict[int, float]
    rejected: tuple[str, ...]

    def __str__(self) -> str:
        return f"{quoted(self.variant)} in {quoted(self.engine)} with {self.threads} threads"


class Loader(Protocol):
    """The operations on a candidate during the choice. A ModelLoadError or EngineError of `load` or
    `measure` refuses the candidate."""

    def known(self, candidate: Candidate) -> dict[int, float]:
        """Seconds by batch size from an earlier start; empty where there are none."""

    def load(self, candidate: Candidate) -> Engine:
        """Checks the file, loads it, and checks its answers."""

    def measure(
        self, candidate: Candidate, engine: Engine, sizes: Sequence[int]
    ) -> dict[int, float]:
        """Seconds by batch size; empty where no shapes are known to time it with."""


def choose(candidates: Sequence[Candidate], sizes: Sequence[int], loader: Loader) -> Choice:
    """Loads and times candidates, which come in order, the simplest first.

    Large batches take the most time to measure. So every candidate is timed with the smallest size
    (`qualify`), candidates that are not FAR_SLOWER with the largest too (`final`), and the winner
    with all. A known latency is not measured again, and a candidate that loses by it is not loaded.

    sizes: the batch sizes whose latency is wanted, ascending.
    Raises EngineUnavailable, with the reason of each candidate, where none can be served.
    """
    contest = _Contest(candidates, sizes, loader)
    contest.qualify()
    while contest.left:
        winner = contest.final()
        if winner is not None:
            return contest.choice_of(winner)
    reasons = contest.refusals
    raise EngineUnavailable(
        summary("no variant can be served: ", [short for short, _ in reasons]),
        detail="no variant can be served: " + "; ".join(whole for _, whole in reasons),
    )


class _Contest:
    """One choice under way.

    left: candidates that may still serve.
    refusals: a short and a whole line for each candidate that was refused.
    """

    def __init__(
        self, candidates: Sequence[Candidate], sizes: Sequence[int], loader: Loader
    ) -> None:
        self.left = list(candidates)
        self.refusals: list[tuple[str, str]] = []
        self._sizes = sizes
        self._loader = loader
        self._latencies = {candidate: loader.known(candidate) for candidate in candidates}
        self._untimed: set[Candidate] = set()
        self._loaded: dict[Candidate, Engine] = {}
        self._scores: dict[Candidate, float] = {}

    def qualify(self) -> None:
        """Times every candidate with the smallest batch. Losers are closed before the next one
        takes memory beside them."""
        for candidate in list(self.left):
            if self._time(candidate, self._sizes[:1]):
                self._close(self._far_slower())

    def final(self) -> Candidate | None:
        """Times the best with the smallest and the largest batch, and the winner with all sizes.
        None where a candidate was refused on the way, since others may be the best then."""
        far = self._far_slower()
        timed = [c for c in self.left if c not in self._untimed and c not in far]
        # A candidate that cannot be timed serves where no other can.
        finalists = timed or self.left[:1]
        self._close(c for c in self.left if c not in finalists)
        self._scores = {}
        limit = math.inf
        for candidate in timed:
            if not self._time(candidate, (self._sizes[0], self._sizes[-1])):
                return None
            if candidate in self._untimed:
                return None
            self._scores[candidate] = score(self._latencies[candidate])
            limit = min(self._scores.values())
            self._close(c for c, s in self._scores.items() if s * CLEARLY_FASTER > limit)
        best = next(c for c in finalists if self._scores.get(c, 0.0) * CLEARLY_FASTER <= limit)
        self._close(candidate for candidate in finalists if candidate != best)
        served = self._load(best) and (best in self._untimed or self._time(best, self._sizes))
        return best if served else None

    def choice_of(self, best: Candidate) -> Choice:
        """The outcome, with a line for each candidate that was not taken."""
        rejected = [whole for _, whole in self.refusals]
        rejected += [self._why_not(c, best) for c in self.left if c != best]
        latency = dict(sorted(self._latencies[best].items()))
        return Choice(best, self._loaded[best], latency, tuple(rejected))

    def _why_not(self, candidate: Candidate, best: Candidate) -> str:
        if candidate in self._untimed or best in self._untimed:
            return f"{candidate}: not timed here, where {best} comes first"
        if candidate in self._scores:
            found, against, what = self._scores[candidate], self._scores[best], "an image"
        else:
            smallest = self._sizes[0]
            found = self._latencies[candidate][smallest]
            against = self._latencies[best][smallest]
            what = f"for a batch of {smallest}"
        ours, best_ones = _told_apart(found * 1e3, against * 1e3)
        word = "slower" if found > against and ours != best_ones else "not clearly faster"
        return f"{candidate}: {word} here, {ours} ms {what} against {best_ones} ms"

    def _far_slower(self) -> set[Candidate]:
        smallest = self._sizes[0]
        alone = {
            c: self._latencies[c][smallest] for c in self.left if smallest in self._latencies[c]
        }
        return {c for c, seconds in alone.items() if seconds > FAR_SLOWER * min(alone.values())}

    def _load(self, candidate: Candidate) -> bool:
        """Loads a candidate unless it is loaded. False where that failed and it was refused."""
        if candidate not in self._loaded:
            try:
                self._loaded[candidate] = self._loader.load(candidate)
            except (ModelLoadError, EngineError) as error:
                self._refuse(candidate, error)
                return False
        return True

    def _time(self, candidate: Candidate, wanted: Sequence[int]) -> bool:
        """Times a candidate with the sizes that are missing. False where it was refused; it is
        untimed where no shapes are known."""
        missing = [size for size in wanted if size not in self._latencies[candidate]]
        if not missing:
            return True
        if not self._load(candidate):
            return False
        try:
            found = self._loader.measure(candidate, self._loaded[candidate], missing)
        except (ModelLoadError, EngineError) as error:
            self._refuse(candidate, error)
            return False
        self._latencies[candidate] |= found
        if not found:
            self._untimed.add(candidate)
            self._latencies[candidate] = {}
        return True

    def _refuse(self, candidate: Candidate, error: ModelLoadError | EngineError) -> None:
        whole = error.detail
        if not whole.startswith(str(candidate)):
            whole = f"{candidate}: {whole}"
        # Short lines leave out the folder, which the message around them names.
        self.refusals.append((whole.replace(f"{candidate.file.parent}/", ""), whole))
        self.left.remove(candidate)
        self._close([candidate])

    def _close(self, losers: Iterable[Candidate]) -> None:
        for candidate in list(losers):
            if candidate in self._loaded:
                self._loaded.pop(candidate).close()


def score(latency: dict[int, float]) -> float:
    """Seconds an image: geometric mean of the time alone and the time in the largest batch."""
    smallest, largest = min(latency), max(latency)
    return math.sqrt(latency[smallest] / smallest * latency[largest] / largest)


def _told_apart(found: float, against: float) -> tuple[str, str]:
    """Both with two decimals, or with as many as tell them apart, at most four."""
    for decimals in (2, 3, 4):
        texts = f"{found:.{decimals}f}", f"{against:.{decimals}f}"
        if texts[0] != texts[1]:
            break
    return texts
