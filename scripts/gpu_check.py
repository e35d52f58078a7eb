"""Measures engines and server on a machine with a GPU, in one command of a few minutes.

    python scripts/gpu_check.py [--out DIR] [--network resnet50] [--side 224] [--seconds 10]
    python scripts/gpu_check.py --model-repository DIR --model NAME [--data LABELLED_FOLDER]

Shows which engines run here, and why the others do not; the distance of every variant and engine
from FP32, and its latency by batch size; the server with each GPU engine's fastest FP16 variant
against the bare engine, in client batches of the largest size, through system shared memory and
over unary gRPC; and how fast images are decoded. Writes gpu_check.json and gpu_check.md into DIR.
Measurements that do not fit into --budget seconds are left out, and named. Without --model it makes
a network with random weights, which is as fast as a trained one. Needs [train] and [dev]; runs on
a CPU too, with the engines that are there.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent
# The repository's root replaces this folder, whose protos.py would hide the package `protos`.
sys.path[:] = [str(_FOLDER.parent)] + [e for e in sys.path if Path(e).resolve() != _FOLDER]

from scripts.gpu.engines import decode_rates, examine
from scripts.gpu.network import make_model
from scripts.gpu.rates import LEFT_OUT, remaining
from scripts.gpu.report import markdown
from scripts.gpu.server import serve, to_serve
from serving.base.errors import ServingError
from serving.base.machine import nvml as gpu
from serving.engines import ENGINES, unavailable_reason
from serving.engines.measure import device_name
from serving.models.loading import local_plans
from serving.models.loading.selfcheck import on_this_machine
from serving.repository.manifest import read_manifest
from serving.repository.model_config import read_model_config


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything. Returns the document that is written as JSON."""
    begin = time.monotonic()
    args.end = begin + args.budget
    repository = args.model_repository or args.out / "repository"
    if args.model is None:
        shutil.rmtree(repository, ignore_errors=True)
        args.model = make_model(repository, args.network, args.side, max(args.batch_sizes))
    config = read_model_config(repository / args.model)
    largest = max(1, config.max_batch_size)
    args.batch_sizes = sorted({min(size, largest) for size in args.batch_sizes})
    version = max(int(p.name) for p in (repository / args.model).iterdir() if p.name.isdecimal())
    folder = repository / args.model / str(version)
    manifest = read_manifest(folder)
    if manifest is None:
        raise SystemExit(f"{folder}: no manifest.json")
    failures: list[str] = []
    if unavailable_reason(local_plans.ENGINE) is None:
        for request in local_plans.plan_requests(folder, manifest, largest, args.cache):
            try:
                if remaining(args) > 0:
                    local_plans.build(request)
                else:
                    failures.append(f"{request.variant}: {LEFT_OUT}")
            except ServingError as error:
                failures.append(str(error))
        manifest = on_this_machine(folder, manifest, largest, args.cache)
    rows = examine(folder, manifest, config, args)
    return {
        "machine": device_name("cpu" if gpu.unavailable_reason() else "gpu"),
        "engines": {name: unavailable_reason(name) or "runs here" for name in ENGINES},
        "model": args.model,
        "batch_sizes": list(args.batch_sizes),
        "variants": rows,
        "plans_that_failed": failures,
        "server": [serve(repository, args.model, row, args) for row in to_serve(rows)],
        "decode": decode_rates(args.seconds),
        "seconds": time.monotonic() - begin,
    }


def main() -> None:
    """Measures, prints and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"))
    parser.add_argument("--model-repository", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path, help="a labelled folder, to measure accuracy on")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all of it")
    args = parser.parse_args()
    if (args.model is None) != (args.model_repository is None):
        parser.error("give --model-repository and --model, or neither")
    args.out.mkdir(parents=True, exist_ok=True)
    args.cache = args.out / "cache"
    report = check(args)
    (args.out / "gpu_check.json").write_text(json.dumps(report, indent=2) + "\n")
    (args.out / "gpu_check.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
