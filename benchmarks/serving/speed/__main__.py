"""Runs the workloads and prints the table.

    python -m benchmarks.serving.speed [--only W0 W1] [--rounds 5] [--seconds 5] [--answers 100]
        [--longest 180] [--peers ...] [--before CHECKOUT]

W0: a trivial model, 32x32 raw tensors: the cost of the front. W1: ResNet-18 and ResNet-50 INT8, raw
tensors. W2: the same from JPEG files to five labels. W3: a U-Net at 480x352 from JPEG files to mask
PNGs. W0-auth (only where it is named): W0 with a caller who is known, by a key, a token or a
certificate, over TLS and without, under a policy with limits; a second table has the CPU that each
adds. Subjects take turns; figures are medians over the rounds that count, ratios are medians of
ratios within a round. W4, the start, is benchmarks.serving.startup.

--before serves another checkout of this project in the same run, to measure a change.

A round lasts --seconds, and longer for a subject with fewer than --answers in them. A subject that
fails leaves a hole in the table. All figures so far are written after each measurement.
"""

import argparse
from pathlib import Path

from benchmarks.serving.speed.rounds import Case, Hole, Length, take_turns
from benchmarks.serving.speed.table import write
from benchmarks.serving.speed.workloads import FILES, cases, running

USUAL = ["W0", "W1", "W2", "W3"]
PEERS = ["triton", "mlserver"]


def main() -> None:
    """Runs the rounds, prints the table, and writes it with the raw figures beside the networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*USUAL, "W0-auth"], default=USUAL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round, at least")
    parser.add_argument("--answers", type=int, default=100, help="of a round, at least")
    parser.add_argument("--longest", type=float, default=180.0, help="seconds of a round, at most")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--before", type=Path, help="folder of a checkout to compare with")
    arguments = parser.parse_args()
    before = arguments.before
    # Python would pass over a folder that is none, and this checkout be compared with itself.
    if before is not None and not (before / "serving").is_dir():
        parser.error(f"--before {before}: expected a folder with a checkout of this project")
    workloads = set(arguments.only)
    with running(set(arguments.peers), workloads, before) as subjects:
        rows = list(cases(subjects, workloads))
        chosen = ", ".join(f"{m}: {v} in {e}" for m, (v, e) in subjects.chosen.items())
        note = f"Our server chose {chosen}."

        def keep(turn: int, case: Case) -> None:
            print(f"round {turn + 1}: {case.workload}, {case.name}: {_shown(case)}", flush=True)
            write(rows, note, FILES)

        length = Length(arguments.seconds, arguments.answers, arguments.longest)
        take_turns(rows, arguments.rounds, length, keep)
    print(write(rows, note, FILES))


def _shown(case: Case) -> str:
    found = case.found[-1]
    if isinstance(found, Hole):
        return f"failed: {found.reason}"
    return (
        f"{found.rate:,.0f}/s, {found.cpu * 1e3:.3f} ms CPU, others {found.others:.1%}, "
        f"{found.answers:,} answers in {case.seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
