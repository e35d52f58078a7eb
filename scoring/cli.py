"""`convserve score`."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from scoring.errors import ScoringError
from scoring.run import Order, Outcome, opened_here, run
from scoring.scorers.scorer import Question
from scoring.sources.opened import open_source
from serving.base.command import AsJson, application, one_of, stop
from serving.base.errors import quoted
from serving.base.folders import told
from serving.base.machine.progress import TerminalLog, duration
from serving.base.text import counted
from serving.cli.credentials import with_credentials
from serving.cli.output import fail, print_json, say, warn
from serving.cli.predictor import Repository
from serving.cli.signing import RequireSignature, refuse_signatures_of
from serving.cli.tls_options import with_tls
from serving.client import ClientTls
from serving.server.config import EngineChoice
from serving.server.endpoints.vision import DEFAULT_TOP_K


@with_credentials
@with_tls
def score(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images, or its URL (s3://, gs://, az://, https://).",
            metavar="FOLDER|URL",
        ),
    ],
    model: Annotated[str, typer.Option(help="Name of the model.")],
    out: Annotated[
        Path,
        typer.Option(help="A .parquet file; any other name is a folder of Parquet files."),
    ],
    model_repository: Repository = None,
    server: Annotated[
        list[str] | None,
        typer.Option(
            help="host:port, or grpcs://host:port, of a server that answers; may be given several "
            "times."
        ),
    ] = None,
    require_signature: RequireSignature = None,
    engine: Annotated[
        str, typer.Option(help="An engine's name, or auto for the fastest here.")
    ] = "auto",
    variant: Annotated[
        str, typer.Option(help="A variant's id, or auto for the fastest here.")
    ] = "auto",
    top_k: Annotated[int, typer.Option(min=1, help="Labels an image.")] = DEFAULT_TOP_K,
    masks: Annotated[
        Path | None, typer.Option(help="Folder for masks as PNG files; none are kept otherwise.")
    ] = None,
    max_failed: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of the images that may fail, rounded up."),
    ] = 0.1,
    shards: Annotated[
        bool,
        typer.Option(
            "--shards", help="The images lie in .tar files below SOURCE.", show_default="off"
        ),
    ] = False,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Share the work on the Ray cluster of RAY_ADDRESS, or of here.",
            show_default="off",
        ),
    ] = False,
    ray_workers: Annotated[
        int, typer.Option(min=0, help="Engines on it; 0 takes one for each GPU, or each machine.")
    ] = 0,
    as_json: AsJson = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress, no closing lines.", show_default="off")
    ] = False,
    *,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Write the answers of a model to every image below a folder or URL into a Parquet table.

    Stopped or killed, the same command goes on where it was. Credentials of a store come from the
    environment.
    """
    _set_up_logging(quiet)
    if bool(server) == bool(model_repository):
        raise typer.BadParameter("give either --server or --model-repository")
    refuse_signatures_of(server[0] if server else None, require_signature)
    for url in server or ():
        if url.startswith(("http://", "https://")):
            raise typer.BadParameter(
                f"{quoted(url)}: is REST; expected host:port of gRPC, or grpcs://host:port",
                param_hint="--server",
            )
    one_of(engine, get_args(EngineChoice), "--engine")
    if ray_workers and not ray:
        raise typer.BadParameter("is for --ray", param_hint="--ray-workers")
    question = Question(
        model=model,
        repositories=tuple(model_repository or ()),
        servers=tuple(server or ()),
        signers=require_signature,
        engine=engine,
        variant=variant,
        top_k=top_k,
        masks=masks is not None,
        tls=tls,
        headers=headers,
    )
    try:
        images = open_source(source, shards=shards)
        order = Order(images, question, out, masks, max_failed, shown=not quiet)
        if ray:
            from scoring.cluster import opened_on_ray

            opener = opened_on_ray(images.address, shards, masks, ray_workers)
        else:
            opener = opened_here(images, masks)
        outcome = run(order, opener)
    except ScoringError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror}")
    except KeyboardInterrupt:
        stop("convserve score: interrupted; the same command goes on from where this one stopped")
    if as_json:
        print_json(_document(out, outcome))
    elif not quiet:
        _print(out, outcome, images.left_out.counts)


def _set_up_logging(quiet: bool) -> None:
    """Progress goes to stderr, as warnings do; the rest of what loading and stores log does not."""
    handler = TerminalLog()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, handlers=[handler])
    logging.getLogger("serving.base.machine.progress").setLevel(logging.INFO)


def _document(out: Path, outcome: Outcome) -> dict[str, Any]:
    rate = outcome.scored / outcome.seconds if outcome.scored else None
    return {
        "out": str(out),
        "images": outcome.images,
        "failed": outcome.failed,
        "scored_now": outcome.scored,
        "seconds": round(outcome.seconds, 3),
        "images_per_second": None if rate is None else round(rate, 1),
        **outcome.identity.model_dump(include={"model", "version", "variant", "engine", "task"}),
    }


def _print(out: Path, outcome: Outcome, left_out: Counter[str]) -> None:
    if left_out:
        warn(f"files left out: {told(left_out)}")
    if not outcome.scored:
        say(f"{out}: was finished already, {counted(outcome.images, 'image')}")
        return
    rate = outcome.scored / max(outcome.seconds, 1e-9)
    say(
        f"{out}: {counted(outcome.images, 'image')} by {outcome.identity}; "
        f"{outcome.scored:,} in {duration(outcome.seconds)}, {rate:.0f} images/s"
    )
    if outcome.failed:
        say(f"{counted(outcome.failed, 'image')} without an answer; the column error says why")
    say(f"read it: pandas.read_parquet({str(out)!r})")


app = application(score)
