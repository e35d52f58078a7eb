"""Accuracy of an embedding on people that it was not trained on.

Trains on s01 to s20 of the ORL faces and measures on s21 to s30, in the engines that would serve.
Verification decides for all pairs, by cosine, whether two pictures show one person. In
identification the first picture of each of the 10 people is the gallery, and the other 90 are the
probes.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.archives import extracted
from training.evaluation.report.tables import measure_rows, print_table, variant_rows
from training.evaluation.verification import Verification

RECIPE = Path(__file__).with_name("faces.yaml")
RANK1_AT_LEAST = 0.85


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of s01, s02, ...")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.KEY=VALUE")
    given = parser.parse_args()
    data = given.data or extracted("faces")
    began = time.monotonic()
    command = [sys.executable, "-m", "convserve", "build", str(RECIPE), "--json"]
    for override in (f"data.root={data}", *given.set):
        command += ["--set", override]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        return built.returncode
    run = Path(json.loads(built.stdout)["run"])
    metrics = json.loads((run / "metrics.json").read_text())
    verification = Verification.model_validate(metrics["verify"]["verification"])
    print_table("faces", variant_rows(verification))
    print_table("faces: more measures", measure_rows(verification))
    found = verification.baseline
    reached = found.value >= RANK1_AT_LEAST
    print(
        f"rank-1 {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] of {found.n} probes as "
        f"trained, {RANK1_AT_LEAST} {'reached' if reached else 'MISSED'}; "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
