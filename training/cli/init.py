"""`convserve init`: looks at a folder, asks, writes a recipe, says how long it takes and what is
next."""

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from serving.base.command import AsJson, application, one_of
from serving.base.folders import why_no_folder
from serving.base.task import TASKS
from serving.base.text import escaped, first_problem
from training.cli.terminal import fail, interrupted, print_json, set_up_logging
from training.errors import BuildError
from training.pipeline.library_logs import quiet_libraries
from training.recipes.fields import Name

log = logging.getLogger(__name__)


def init(
    folder: Annotated[Path, typer.Argument(help="Images with labels or masks, or a network.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The recipe.", show_default="NAME.yaml"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the model.", show_default="the folder's"),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="classification, segmentation or embedding.",
            show_default="as the labels are",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="What the network sees; one number for a square.",
            show_default="by the images and the time",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A network of `convserve build --list-networks`, or a file (.onnx, .pt2).",
            show_default="by the images and the time",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            min=0.1,
            max=10_000,
            help="For the whole build on this machine.",
            show_default="10",
        ),
    ] = None,
    mirrors: Annotated[
        str | None,
        typer.Option(
            metavar="yes|no",
            help="Whether a mirrored image is still what its label says.",
            show_default="by the names of the classes",
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option(help="Look for weights that the build could download.")
    ] = True,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing: take the defaults.", show_default="off")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a file.", show_default="off")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at a folder and write a recipe that works on it, with the time that it takes here."""
    wanted = one_of(task, tuple(TASKS), "--task")
    one_of(mirrors, ("yes", "no"), "--mirrors")
    sides = _size(size)
    if name is not None:
        _check_name(name)
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: {why_no_folder(folder)}", param_hint="FOLDER")
    set_up_logging()
    log.info("init: looking at %s; loading torch", folder)
    # Imported here: a wrong option is told at once, and torch takes seconds to import.
    from training.pipeline.initial.first_recipe import Given, first_recipe

    given = Given(
        folder, out, name, wanted, sides, network, minutes,
        None if mirrors is None else mirrors == "yes", download, yes or as_json, force,
    )  # fmt: skip
    try:
        with quiet_libraries():
            outcome = first_recipe(given)
    except (BuildError, OSError) as error:
        fail("init", str(error))
    except KeyboardInterrupt:
        interrupted("init", "no recipe was written")
    if as_json:
        print_json(asdict(outcome))
        return
    for line in outcome.lines():
        typer.echo(escaped(line))


def _check_name(text: str) -> None:
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(first_problem(error)[1], param_hint="--name") from None


def _size(text: str | None) -> tuple[int, int] | None:
    """ "96" or "96x128" as (height, width)."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", text)
    if match is None:
        raise typer.BadParameter(
            f"expected HEIGHTxWIDTH or one number, each from 1 to 9999; got {text[:40]!r}",
            param_hint="--size",
        )
    return int(match[1]), int(match[2] or match[1])


app = application(init)
