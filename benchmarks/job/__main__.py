"""Builds the works, serves them in every way, and prints one table.

    python -m benchmarks.job [--only resnet56 vit] [--quick] [--rounds 3] [--seconds 8]
        [--no-search] [--json]

Subjects of a work take turns: (a) the network in FP32 in NVIDIA Triton, with ONNX Runtime and with
OpenVINO; (b) our INT8 file in the same Triton, in the engine that our server chose; (c) our server
with it; (d) our server with the network that `--search drop<=1` found. Each is measured in a closed
loop for its images/s and CPU, then at 70 % of its own rate for its latency. Its answers are held
against labels or masks while the load runs. Figures are medians over the rounds that count, ratios
medians of ratios within a round.

Networks are built once, by `convserve build`, in runs/job; the time that it took is kept. A search
takes hours: --no-search leaves out (d). --quick
trains on a few images: it shows that everything runs, and its accuracies say nothing.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.job.building import BuildFailed, Workshop
from benchmarks.job.data import FOLDER, Absent
from benchmarks.job.subjects import Row, rows, running
from benchmarks.job.table import document, write
from benchmarks.job.works import WORKS, Work
from benchmarks.serving.speed.rounds import Case, Hole, Length, take_turns
from serving.base.machine.cpu import machine


def main() -> int:
    """Runs the works, prints the table, and leaves it with all figures in the form's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument("--quick", action="store_true", help="a small form, in some minutes")
    parser.add_argument("--rounds", type=int, help="3; quick: 1")
    parser.add_argument("--seconds", type=float, help="of each load, at least: 8; quick: 3")
    parser.add_argument("--answers", type=int, help="images of a load, at least: 400; quick: 50")
    parser.add_argument("--longest", type=float, default=180.0, help="seconds of a load, at most")
    parser.add_argument("--no-search", action="store_true", help="leave out (d)")
    parser.add_argument("--no-triton", action="store_true", help="our own subjects alone")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON instead")
    given = parser.parse_args()
    form = FOLDER / ("quick" if given.quick else "full")
    usual = (1, 3.0, 50) if given.quick else (3, 8.0, 400)
    rounds = given.rounds or usual[0]
    length = Length(given.seconds or usual[1], given.answers or usual[2], given.longest)
    found: list[Row] = []
    notes = [f"{machine()}, load {' '.join(f'{load:.1f}' for load in os.getloadavg())} at first."]

    def keep(turn: int, case: Case) -> None:
        _say(f"round {turn + 1}: {case.workload}, {case.name}: {_shown(case)}")
        write(found, " ".join(notes), form)

    for name in given.only:
        work = WORKS[name]
        _say(f"{work.title}: data and networks")
        try:
            search, triton = not given.no_search, not given.no_triton
            with _served(work, form, given.quick, search=search, triton=triton) as own:
                found += own
                take_turns([row.case for row in own], rounds, length, keep)
        # Where a work has no data, or cannot be built or served, the others are kept.
        except (Absent, BuildFailed, RuntimeError, AssertionError, OSError) as error:
            notes.append(f"{work.title}: left out: {' '.join(str(error).split())[:400]}.")
            _say(notes[-1])
    note = " ".join(notes)
    text = write(found, note, form)
    print(json.dumps(document(found, note), indent=2, allow_nan=False) if given.json else text)
    return 0


@contextlib.contextmanager
def _served(
    work: Work, form: Path, quick: bool, *, search: bool, triton: bool
) -> Iterator[list[Row]]:
    """The rows of a work while its servers run."""
    images = work.images(form, quick)
    overrides = (*images.overrides, *(work.quick if quick else ()))
    workshop = Workshop(work, form / work.name, overrides)
    parts = running(work, images, workshop, search=search, triton=triton)
    with parts as (served, classes):
        yield rows(work, images, classes, served)


def _shown(case: Case) -> str:
    found = case.found[-1]
    if isinstance(found, Hole):
        return f"failed: {found.reason}"
    return (
        f"{found.rate:,.0f} images/s, {found.cpu * 1e3:.3f} ms CPU, p99 {found.p99:.1f} ms, "
        f"others {found.others:.1%}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
