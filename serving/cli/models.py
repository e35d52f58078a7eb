"""`convserve models`."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from serving.base.command import AsJson, application, one_of
from serving.base.evaluation import Estimate
from serving.base.machine.terminal import next_step
from serving.cli.credentials import with_credentials
from serving.cli.output import fail, print_json, say
from serving.cli.predictor import CACHE_DIR, Url, folders_at, repository_words
from serving.cli.signing import RequireSignature, refuse_signatures_of, signed_by
from serving.cli.table import print_table
from serving.cli.tls_options import with_tls
from serving.client import AsyncVisionClient, CallFailed, ClientTls
from serving.models.loading.candidates import LoadSettings, open_cache
from serving.models.loading.outlook import Prospect, prospects
from serving.repository.layout import ModelFolder
from serving.repository.signing.private_copy import SignedVersions
from serving.server.config import EngineChoice, ServerConfig


def _help(name: str) -> str:
    return f"The server's --{name.replace('_', '-')}. {ServerConfig.model_fields[name].description}"


@with_credentials
@with_tls
def models(
    model_repository: Annotated[
        list[str] | None,
        typer.Option(help="A repository, as the server's; may be given several times."),
    ] = None,
    url: Url = None,
    engine: Annotated[str, typer.Option(help=_help("engine"))] = "auto",
    variant: Annotated[str, typer.Option(help=_help("variant"))] = "auto",
    cache_dir: Annotated[Path, typer.Option(help=_help("cache_dir"))] = CACHE_DIR,
    allow_ungated: Annotated[bool, typer.Option(help=_help("allow_ungated"))] = False,
    strict_config: Annotated[bool, typer.Option(help=_help("strict_config"))] = False,
    require_signature: RequireSignature = None,
    as_json: AsJson = False,
    *,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> None:
    """List models: versions, task, variants, accuracy, latency, state.

    For a repository, the state predicts `convserve serve` with these options on this machine: a
    variant "serves", or is "timed at load" with others, of which the fastest serves; "where no GPU
    serves", "refused", "not run here", "not selected" and "broken" come with the reason.
    """
    if (url is None) == (not model_repository):
        raise typer.BadParameter("give either --url or --model-repository")
    one_of(engine, get_args(EngineChoice), "--engine")
    refuse_signatures_of(url, require_signature)
    if url is not None:
        try:
            lines = asyncio.run(_of_server(url, tls, headers))
        except CallFailed as error:
            fail(f"{url}: {error}")
    else:
        settings = LoadSettings(
            engine=engine,
            variant=variant,
            cache_dir=open_cache(cache_dir),
            allow_ungated=allow_ungated,
            strict_config=strict_config,
        )
        signed = None
        if require_signature is not None:
            signed = signed_by(require_signature, settings.cache_dir)
        lines = _on_disk(folders_at(model_repository or [], cache_dir), settings, signed)
    if as_json:
        print_json(lines)
        return
    _print(lines)
    if url is None:
        next_step("serve", *repository_words(model_repository))
    elif lines:
        next_step("predict", "IMAGE", "--model", lines[0]["name"], "--url", url)


def _print(lines: list[dict[str, Any]]) -> None:
    columns = ["name", "version", "task", "variant", "engine", "accuracy", "latency", "state"]
    shown = [line | {"accuracy": _accuracy(line), "latency": _latency(line)} for line in lines]
    print_table(columns, [[str(line.get(column, "")) for column in columns] for line in shown])
    for line in lines:
        where = " ".join(
            str(line[key]) for key in ("name", "version", "variant", "engine") if line.get(key)
        )
        if line.get("reason"):
            say(f"{where}: {line['reason']}")
    completed = {(line["name"], tuple(line["completed"])) for line in lines if "completed" in line}
    for name, fields in sorted(completed):
        say(f"{name}: config.pbtxt completed from the file: {', '.join(fields)}")


async def _of_server(
    url: str, tls: ClientTls | None, headers: Mapping[str, str] | None
) -> list[dict[str, Any]]:
    async with AsyncVisionClient(url, retries=0, tls=tls, headers=headers) as client:
        return await client.models()


def _on_disk(
    folders: Mapping[str, ModelFolder], settings: LoadSettings, signed: SignedVersions | None
) -> list[dict[str, Any]]:
    return [
        _line(prospect)
        for folder in folders.values()
        if folder.is_model
        for prospect in prospects(folder, settings, signed)
    ]


def _line(prospect: Prospect) -> dict[str, Any]:
    """One row, without empty fields."""
    line: dict[str, Any] = {
        "name": prospect.name,
        "version": prospect.version,
        "state": prospect.state,
        "reason": prospect.reason,
        "variant": prospect.variant,
        "engine": prospect.engine,
        "completed": list(prospect.completed),
    }
    if prospect.manifest is not None:
        line["task"] = prospect.manifest.task
    if prospect.manifest is not None and prospect.evidence is not None:
        line["measure"] = prospect.manifest.measure
        line["accuracy"] = prospect.evidence.accuracy.model_dump()
        line["latency_ms"] = dict(prospect.evidence.latency.milliseconds)
    return {key: value for key, value in line.items() if value or key in ("version", "reason")}


def _accuracy(line: Mapping[str, Any]) -> str:
    try:
        return f"{line['measure']} {Estimate(**line['accuracy'])}"
    except (KeyError, ValidationError):  # not measured, or a foreign server's
        return ""


def _latency(line: Mapping[str, Any]) -> str:
    return ", ".join(f"{size}: {ms:.2f} ms" for size, ms in line.get("latency_ms", {}).items())


app = application(models)
