"""Whether a stranger's requests can hurt the server: every attack that we know, one by one.

    python -m benchmarks.serving.hostile [--quick] [--only NAME ...] [--mutations 20000]
        [--callbacks] [--seed 0] [--json FILE]

Each attack meets a server with a memory limit (`--mib`, what the chart gives), with honest callers
beside it and a probe of /livez. A row says what was sent and what came of it, the longest pause of
the event loop as the server counts it (`convserve_event_loop_lag_seconds`), how late /livez was,
the peak of memory, and what the honest callers got. The last one, `mutations`, is many random
changes of valid requests of both wires.

With --callbacks the server runs on asyncio's own event loop, whose callbacks are timed: none may
take 5 ms of a core, and on a virtual machine what its host takes to give two pages of memory.

The exit status is 1 where the server crashed or hung, its loop stood still for over 50 ms, it took
more memory than what it holds idle, its budget and gRPC's share together, an attack achieved what
it must not, or an honest call got a wrong answer, none, or one after the deadline. The deadline is
one that no honest call misses at twice their number without an attack.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.serving.hostile import administration, connections, http2, images, tensors
from benchmarks.serving.hostile.ground import BUSY, Attack, Ground
from benchmarks.serving.hostile.mutations import mutations
from benchmarks.serving.hostile.new_memory import new_memory_seconds
from benchmarks.serving.hostile.table import Row, table
from tests.support.identity import publish_identity
from tests.support.published import publish

# Seconds of an attack: whole, and --quick.
SECONDS, QUICK_SECONDS = 5.0, 1.5
# Mutated requests.
MUTATIONS, QUICK_MUTATIONS = 20_000, 1_000
# Seconds after which no further attack begins.
TIME_LIMIT = 540.0
# One of each kind.
QUICK = (
    "webp", "jpeg-scans", "segment-24", "outputs-20000", "bytes-empties", "gzip-bombs", "json-deep",
    "held-bodies", "idle", "web-page", "opened-shared-memory", "huge-numbers", "rapid-reset",
    "mutations",
)  # fmt: skip


def attacks(count: int, seed: int) -> list[Attack]:
    """All, in their order; `count` mutated requests."""
    few = (connections.idle, connections.idle_grpc, connections.idle_metrics)
    rooms = (images, tensors, connections, http2, administration)
    found = [
        Attack(run, files=connections.FILES if run in few else None)
        for room in rooms
        for run in room.ATTACKS
    ]
    # Admin calls are refused before they are read unless everybody may make them.
    opened = ("--admin-open", "repository,settings,memory")
    found += [Attack(run, flags=opened) for run in administration.OPENED]
    changed = partial(mutations, count=count, seed=seed)
    return [*found, Attack(changed, name="mutations", flags=opened)]


def main() -> None:
    """Prints the table; the exit status says whether all held."""
    names = [attack.name for attack in attacks(0, 0)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one attack of each kind, shorter")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names)
    parser.add_argument("--seconds", type=float, help="of each attack")
    parser.add_argument(
        "--callbacks", action="store_true", help="time the callbacks of the event loop too"
    )
    parser.add_argument("--mib", type=int, default=2048, help="memory limit of the server")
    parser.add_argument("--mutations", type=int, help="mutated requests to send")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    quick = arguments.quick
    chosen = arguments.only or (QUICK if quick else names)
    seconds = arguments.seconds or (QUICK_SECONDS if quick else SECONDS)
    count = arguments.mutations or (QUICK_MUTATIONS if quick else MUTATIONS)
    all_ = attacks(count, arguments.seed)
    wanted = [attack for attack in all_ if attack.name in chosen]
    new_memory = new_memory_seconds()
    rows, busy = run(wanted, seconds, arguments.mib, new_memory, callbacks=arguments.callbacks)
    print(table(rows))
    print(
        f"\nBeside {BUSY} processes that only compute, honest callers have a p99 of {busy:.0f} ms"
    )
    print(f"16 MiB of new memory take this machine {new_memory * 1e3:.0f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
    found = [f"{row.attack}: {fault}" for row in rows for fault in row.faults]
    print("\n".join(["", *(found or ["all held"])]))
    sys.exit(bool(found))


def publish_models(repository: Path) -> None:
    """The models that attacks and honest callers call."""
    repository.mkdir()
    publish(repository, "colours", "classification")
    publish(repository, "regions", "segmentation")
    publish(repository, "points", "embedding")
    for kind in tensors.KINDS:
        publish_identity(repository, f"identity-{kind}", [kind])


def run(
    chosen: Sequence[Attack],
    seconds: float,
    mib: int,
    new_memory: float,
    *,
    callbacks: bool = False,
) -> tuple[list[Row], float]:
    """A row for each attack, and the p99 of honest callers on busy cores, in ms."""
    rows = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish_models(folder / "models")
        with Ground(folder, mib, seconds, new_memory, callbacks=callbacks) as ground:
            for attack in chosen:
                if time.monotonic() - began > TIME_LIMIT:
                    print(f"no time is left for {attack.name}", file=sys.stderr)
                    continue
                rows.append(ground.meet(attack))
                print(rows[-1].line(), file=sys.stderr, flush=True)
        busy = ground.busy.p99 * 1e3 if ground.busy else 0.0
    return rows, busy


if __name__ == "__main__":
    main()
