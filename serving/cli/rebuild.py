"""`convserve rebuild`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.base.errors import ModelLoadError
from serving.cli.output import application, fail, print_json, warn
from serving.cli.table import print_table
from serving.models import local_plans
from serving.models.local_plans import PlanRequest
from serving.repository.layout import ModelFolder, scan
from serving.repository.manifest import read_manifest
from serving.repository.model_config import read_model_config
from serving.server.config import ServerConfig

_CACHE_DIR = ServerConfig.model_fields["cache_dir"]


def rebuild(
    model_repository: Annotated[Path, typer.Option(help="Folder with one folder a model.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this model; may be given several times.", show_default="all"),
    ] = None,
    cache_dir: Annotated[
        Path, typer.Option(help="Where the plans are kept: the server's --cache-dir.")
    ] = _CACHE_DIR.default,
    workspace_mib: Annotated[
        int | None,
        typer.Option(help="Most GPU memory that a layer may work in.", show_default="all"),
    ] = None,
    force: Annotated[bool, typer.Option(help="Also those that are there already.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document.", show_default="off")
    ] = False,
) -> None:
    """Make TensorRT plans for this machine's GPUs from a repository's ONNX files.

    The repository is not changed. A server with the same cache folder finds the plans when it loads
    a model, checks their answers against the published ones and times them.
    """
    try:
        folders = scan(model_repository)
    except OSError as error:
        fail(f"{model_repository}: {error.strerror}")
    unknown = sorted(set(model or ()) - set(folders))
    if unknown:
        fail(f"{model_repository}: no model {unknown[0]!r}; it has {sorted(folders)}")
    lines: list[dict[str, Any]] = []
    for name in model or sorted(folders):
        lines += _model(folders[name], cache_dir.expanduser(), workspace_mib, force)
    if as_json:
        print_json(lines)
    else:
        columns = ["model", "version", "variant", "state", "tensorrt_version", "gpu", "file"]
        print_table(columns, [[str(line.get(c, "")) for c in columns] for line in lines])
    failures = [line for line in lines if line["state"] == "failed"]
    if failures:
        for line in failures:
            warn(f"{line['model']} {line['version']} {line['variant']}: {line['reason']}")
        raise typer.Exit(1)


def _model(
    folder: ModelFolder, cache_dir: Path, workspace_mib: int | None, force: bool
) -> list[dict[str, Any]]:
    """A line for each plan that the selected versions of a model could have."""
    try:
        config = read_model_config(folder.path)
    except ModelLoadError as error:
        fail(str(error))
    lines: list[dict[str, Any]] = []
    for version in config.version_policy.select(list(folder.versions)):
        path = folder.path / str(version)
        try:
            manifest = read_manifest(path)
            if manifest is None:
                continue
            requests = local_plans.plan_requests(path, manifest, config.max_batch_size, cache_dir)
        except ModelLoadError as error:
            fail(str(error))
        lines += [
            {
                "model": folder.name,
                "version": str(version),
                "variant": request.variant,
                "file": str(request.folder / local_plans.PLAN_FILE),
                **_plan(request, workspace_mib, force),
            }
            for request in requests
        ]
    return lines


def _plan(request: PlanRequest, workspace_mib: int | None, force: bool) -> dict[str, Any]:
    if request.is_built and not force:
        return {"state": "there already"}
    try:
        record = local_plans.build(request, workspace_mib)
    except ModelLoadError as error:
        return {"state": "failed", "reason": str(error)}
    except OSError as error:
        where = error.filename or request.folder
        return {"state": "failed", "reason": f"{where}: {error.strerror or error}"}
    return {"state": "built", **asdict(record)}


app = application(rebuild)
