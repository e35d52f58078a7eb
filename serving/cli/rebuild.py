"""`convserve rebuild`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.base.command import AsJson, application
from serving.base.errors import ModelLoadError
from serving.base.files import own_folder
from serving.base.machine.progress import Progress
from serving.base.machine.terminal import next_step
from serving.cli.output import fail, print_json, warn
from serving.cli.predictor import CACHE_DIR, folders_at, repository_words
from serving.cli.signing import RequireSignature, signed_by
from serving.cli.table import print_table
from serving.engines import unavailable_reason
from serving.models.loading.local_plans import ENGINE
from serving.models.loading.plan_builder import build_plans
from serving.repository.layout import ModelFolder


def rebuild(
    model_repository: Annotated[
        list[str], typer.Option(help="A repository, as the server's; may be given several times.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this model; may be given several times.", show_default="all"),
    ] = None,
    cache_dir: Annotated[
        Path, typer.Option(help="Where the plans are kept: the server's --cache-dir.")
    ] = CACHE_DIR,
    workspace_mib: Annotated[
        int | None,
        typer.Option(help="Most GPU memory that a layer may work in.", show_default="all"),
    ] = None,
    force: Annotated[bool, typer.Option(help="Also those that are there already.")] = False,
    require_signature: RequireSignature = None,
    as_json: AsJson = False,
) -> None:
    """Make TensorRT plans for this machine's GPUs from a repository's ONNX files.

    The repository is not changed. A server with the same cache folder finds the plans when it loads
    a model, checks their answers against the published ones and times them.
    """
    folders = folders_at(model_repository, cache_dir)
    unknown = sorted(set(model or ()) - set(folders))
    if unknown:
        where = ", ".join(model_repository)
        fail(f"{where}: no model {unknown[0]!r}; it has {sorted(folders)}")
    try:
        cache = own_folder(cache_dir.expanduser())
    except (OSError, RuntimeError) as error:  # RuntimeError where ~ is nobody's
        fail(f"--cache-dir: {error}")
    signers = None if require_signature is None else signed_by(require_signature).pem
    lines = _built(
        {name: folders[name] for name in model or sorted(folders)},
        lambda path: build_plans(path, cache, workspace_mib, force=force, signers=signers),
    )
    if as_json:
        print_json(lines)
    else:
        columns = ["model", "version", "variant", "state", "tensorrt_version", "gpu", "file"]
        print_table(columns, [[str(line.get(c, "")) for c in columns] for line in lines])
    failures = [line for line in lines if line["state"] == "failed"]
    if failures:
        for line in failures:
            parts = [line[key] for key in ("model", "version", "variant") if key in line]
            warn(f"{' '.join(parts)}: {line['reason']}")
        raise typer.Exit(1)
    if not as_json:
        next_step("serve", *repository_words(model_repository), "--cache-dir", cache_dir)


def _built(
    folders: Mapping[str, ModelFolder], build: Callable[[Path], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """A line for each plan. Ends the command where no engine here could run one."""
    lines: list[dict[str, Any]] = []
    with Progress("rebuild", len(folders), "models") as progress:
        for name, folder in folders.items():
            try:
                lines += build(folder.path)
            except ModelLoadError as error:
                if not folder.is_model:
                    continue
                if unavailable_reason(ENGINE) is not None:
                    fail(str(error))
                # One that cannot be read does not keep the others from their plans.
                lines.append({"model": name, "state": "failed", "reason": error.detail})
            progress.advance()
    return lines


app = application(rebuild)
