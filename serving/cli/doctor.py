"""`convserve doctor`."""

import importlib.metadata
import platform
from typing import Any

import typer

from serving.base.command import AsJson, application
from serving.base.machine import nvml
from serving.base.machine.cpu import machine
from serving.base.machine.terminal import next_step
from serving.cli.output import print_json
from serving.cli.table import print_table
from serving.engines import ENGINES, cpu_features, engine_version, unavailable_reason
from serving.server.wire import native_missing

_PACKAGES = ("grpcio", "protobuf", "numpy", "opencv-python-headless", "simplejpeg", "pillow")


def doctor(
    as_json: AsJson = False,
) -> None:
    """Say which engines can run here, and why the others cannot."""
    report = _report()
    if as_json:
        print_json(report)
        return
    typer.echo(f"machine       {report['machine']}")
    typer.echo(f"instructions  {', '.join(report['cpu_features']) or 'none of those that matter'}")
    typer.echo(f"GPU           {_gpu_text()}")
    typer.echo(f"Python        {report['python']}, convserve {report['convserve']}")
    typer.echo(f"gRPC wire     {_wire(report['wire'])}\n")
    rows = [
        [name, "yes" if e["available"] else "no", e["version"] or "", e["reason"] or ""]
        for name, e in report["engines"].items()
    ]
    print_table(["engine", "runs here", "version", "why not"], rows)
    typer.echo("")
    print_table(["package", "version"], [[k, v] for k, v in report["packages"].items()])
    next_step("init", "FOLDER")


def _wire(found: dict[str, Any]) -> str:
    """The wire that `--wire auto` takes."""
    return "native" if found["native"] else f"grpcio (not native: {found['reason']})"


def _report() -> dict[str, Any]:
    engines = {}
    for name, entry in ENGINES.items():
        reason = unavailable_reason(name)
        version = engine_version(name) if reason is None else None
        engines[name] = {
            "available": reason is None,
            "version": version,
            "reason": reason,
            "precisions": list(entry.precisions),
        }
    return {
        "convserve": importlib.metadata.version("convserve"),
        "python": platform.python_version(),
        "machine": machine(),
        "cpu_features": list(cpu_features()),
        "gpus": _gpus(),
        "gpu_reason": nvml.unavailable_reason(),
        "wire": {"native": (reason := native_missing()) is None, "reason": reason},
        "engines": engines,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _gpus() -> list[dict[str, Any]]:
    if nvml.unavailable_reason() is not None:
        return []
    return [
        {"name": gpu.name, "memory_bytes": gpu.memory_bytes, "driver": gpu.driver}
        for gpu in nvml.gpus()
    ]


def _gpu_text() -> str:
    """Name, memory and driver of each GPU, or the reason why there is none."""
    try:
        return "; ".join(str(device) for device in nvml.gpus())
    except nvml.GpuUnavailable as reason:
        return f"none ({reason})"


app = application(doctor)
