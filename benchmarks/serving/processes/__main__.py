"""CPU that an engine process adds to a call, and the death of each process under load.

    python -m benchmarks.serving.processes [--seconds 2] [--rounds 3] [--kills 100] [--seed 1]
    python -m benchmarks.serving.processes --quick

Cost: 1, 8 and 32 callers ask a network that takes next to no time, without a wire, so that only the
way to the batcher differs: in one process, and with an engine process. CPU time of both processes a
call, medians over rounds that alternate. `engine side` is the CPU of the engine process beyond that
of a batcher whose callers are callbacks in its own process; `colder batch` is as much of it as the
network and the gathering of its inputs take longer there, with other processes' work in the caches.

Kills: a server with an engine process answers 24 callers of all kinds over gRPC and REST while a
model is loaded in one version after the other and another with files that a load call brings.
Engine, loader and front get SIGKILL in random order at random moments; a server whose front is dead
is started again on its ports, as Kubernetes does with a container. The image of a call is a random
colour, and each version of the model answers with another gain.

Exit status 1 where a bar is missed: at 32 callers 15 us a call in all and 5 at the engine side; a
wrong answer, or one of a version before the last that was loaded; a call without a status, or with
one that no death explains; an answer to no call that the front had; a process that outlives its
front; anything left in the temporary folder, in /dev/shm, or half written in the cache; memory,
descriptors or threads of front or engine process that grow with the kills.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks.serving.processes import cost, kills
from tests.support.published import publish


def main() -> None:
    """Prints both; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn of the cost")
    parser.add_argument("--rounds", type=int, default=3, help="of the cost; 0 leaves it out")
    parser.add_argument("--kills", type=int, default=100, help="0 leaves them out")
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--quick", action="store_true", help="a minute for all of it")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.kills = 0.5, 1, 16
    faults = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.rounds:
            publish(folder / "models", max_batch_size=32)
            found = uvloop.run(
                cost.measure(
                    folder / "models", folder / "cache", arguments.seconds, arguments.rounds
                )
            )
            faults += cost.faults(found)
        if arguments.kills:
            faults += uvloop.run(kills.run(folder / "kills", arguments.kills, arguments.seed))
    sys.exit("; ".join(faults) or 0)


if __name__ == "__main__":
    main()
