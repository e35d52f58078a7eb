"""`convserve models`."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.base.errors import ModelLoadError
from serving.cli.output import application, fail, print_json
from serving.cli.table import print_table
from serving.client import AsyncVisionClient, CallFailed
from serving.repository.layout import ModelFolder, scan
from serving.repository.manifest import Manifest, read_manifest
from serving.repository.model_config import read_model_config


def models(
    model_repository: Annotated[Path | None, typer.Option(help="A repository on disk.")] = None,
    url: Annotated[str | None, typer.Option(help="A server's host:port.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document.", show_default="off")
    ] = False,
) -> None:
    """List models: versions, task, variants, accuracy, latency, state."""
    if (url is None) == (model_repository is None):
        raise typer.BadParameter("give either --url or --model-repository")
    if url is not None:
        try:
            lines = asyncio.run(_of_server(url))
        except CallFailed as error:
            fail(f"{url}: {error}")
    else:
        lines = _on_disk(model_repository or Path())
    if as_json:
        print_json(lines)
        return
    columns = ["name", "version", "task", "variant", "engine", "accuracy", "latency", "state"]
    rows = [[_shown(line.get(column)) for column in columns] for line in lines]
    print_table(columns, rows)
    for line in lines:
        if line.get("reason"):
            typer.echo(f"{line['name']} {line['version']}: {line['reason']}")


async def _of_server(url: str) -> list[dict[str, Any]]:
    async with AsyncVisionClient(url, retries=0) as client:
        return await client.models()


def _on_disk(repository: Path) -> list[dict[str, Any]]:
    try:
        folders = scan(repository)
    except OSError as error:
        fail(f"{repository}: {error.strerror}")
    return [line for folder in folders.values() for line in _lines(folder)]


def _lines(folder: ModelFolder) -> list[dict[str, Any]]:
    """A line for each variant in each engine that it was measured in."""
    try:
        config = read_model_config(folder.path)
    except ModelLoadError as error:
        return [_broken(folder, "", error)]
    selected = config.version_policy.select(list(folder.versions))
    lines = []
    for version in folder.versions:
        try:
            manifest = read_manifest(folder.path / str(version))
        except ModelLoadError as error:
            lines.append(_broken(folder, str(version), error))
            continue
        state = "selected" if version in selected else "on disk"
        if manifest is None:
            lines.append(
                {
                    "name": folder.name,
                    "version": str(version),
                    "state": state,
                    "reason": "no manifest.json: served with --allow-ungated only",
                }
            )
        else:
            lines += _measured(folder.name, str(version), state, manifest)
    return lines


def _measured(name: str, version: str, state: str, manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "version": version,
            "task": manifest.task,
            "variant": variant.id,
            "engine": engine,
            "accuracy": f"{manifest.measure} {evidence.accuracy}",
            "latency": dict(evidence.latency.milliseconds),
            "state": state if evidence.gate.passed else "failed its gate",
            "reason": "" if evidence.gate.passed else evidence.gate.reason,
        }
        for variant in manifest.variants
        for engine, evidence in variant.evidence.items()
    ]


def _broken(folder: ModelFolder, version: str, error: ModelLoadError) -> dict[str, Any]:
    return {"name": folder.name, "version": version, "state": "broken", "reason": str(error)}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{size}: {float(ms):.2f} ms" for size, ms in value.items())
    return "" if value is None else str(value)


app = application(models)
