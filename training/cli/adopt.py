"""`convserve adopt`: parses arguments, does the work, prints the outcome."""

import logging
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from serving.base.command import AsJson, application, one_of
from serving.base.machine.terminal import next_step
from serving.base.task import TASKS
from serving.base.text import escaped
from serving.repository.interface import Meaning
from serving.repository.signing.keys import BadKey, read_private_key
from training.cli.terminal import fail, interrupted, print_json, set_up_logging
from training.errors import BuildError
from training.pipeline.library_logs import quiet_libraries

log = logging.getLogger(__name__)

# Told here as well, since the help must not import the work, and torch with it.
_MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
_METHODS: tuple[Literal["minmax", "mse", "percentile"], ...] = ("minmax", "mse", "percentile")
VARIANTS = ("fp32", "fp16", "bf16", "int8-s8", "int8-u8", "int8-u8-rr")


def adopt(
    model: Annotated[
        Path, typer.Argument(metavar="REPO/MODEL", help="The model's folder in a repository.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Images, with --preprocess; else .npz or .npy files with arrays named as the "
            "inputs.",
        ),
    ],
    preprocess: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|FILE",
            help="How an image becomes the input; see docs/adopt.md for the file's keys.",
            show_default="tensors only",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="classification, segmentation or embedding: typed calls are answered, and "
            "labelled data is judged by its labels.",
            show_default="tensors only",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="The output that answers the task.", show_default="the first"),
    ] = None,
    holds: Annotated[
        str | None,
        typer.Option(
            metavar="MEANING",
            help="What it holds: logits, probabilities, classes or embedding.",
            show_default="as its answers look",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names of the network's classes, one a line.",
            show_default="the output's label_filename",
        ),
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled", help="Folders are no labels: compare with FP32.", show_default="off"
        ),
    ] = False,
    version: Annotated[
        int | None, typer.Option(help="The version to adopt.", show_default="newest served")
    ] = None,
    variants: Annotated[
        str, typer.Option(help="Variants to make and measure.")
    ] = "fp32,bf16,fp16,int8-s8,int8-u8",
    calibrate: Annotated[
        str, typer.Option(help="Ranges of INT8: minmax, mse or percentile.")
    ] = "minmax",
    max_float: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Largest share of the layers of INT8 that stay in floating point where it fails.",
        ),
    ] = 0.25,
    calibration_items: Annotated[
        int, typer.Option(min=1, help="Items, at most half, that ranges are measured on.")
    ] = 256,
    items: Annotated[int, typer.Option(min=2, help="Items that are read at most.")] = 1000,
    max_drop: Annotated[
        float, typer.Option(min=0, max=1, help="Largest loss of accuracy on labelled data.")
    ] = 0.01,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest share of answers that are FP32's.")
    ] = 0.95,
    max_distance: Annotated[
        float,
        typer.Option(
            min=0, help="Distance up to which a tensor is FP32's, as a share of its norm."
        ),
    ] = 0.1,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Smallest accuracy on labelled data.", show_default="above chance"
        ),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM file of the Ed25519 key that signs the version, as in convserve sign.",
            show_default="not signed",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and end.", show_default="off")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give a model that is served already variants, a gate and a manifest; its interface stays."""
    set_up_logging()
    wanted = one_of(task, tuple(TASKS), "--task")
    meant = one_of(holds, _MEANINGS, "--holds")
    method = one_of(calibrate, _METHODS, "--calibrate")
    made = _variants(variants)
    try:
        key = None if sign_key is None else read_private_key(sign_key)
    except BadKey as error:
        fail("adopt", f"--sign-key: {error}")
    log.info("adopt: %s with %s; loading torch", model, data)
    # Imported here: a wrong option is told at once, and torch takes seconds to import.
    from training.pipeline.adopt.adopt import adopt as run
    from training.pipeline.adopt.judging import Bounds
    from training.pipeline.adopt.plan import Request, plan

    try:
        request = Request(
            model=model,
            data=data,
            version=version,
            preprocess=preprocess,
            task=wanted,
            output=output,
            holds=meant,
            classes=classes,
            unlabelled=unlabelled,
            variants=made,
            items=items,
            calibration_items=calibration_items,
            calibrate=method or "minmax",
            max_float=max_float,
            bounds=Bounds(max_drop, min_agreement, max_distance, min_accuracy),
        )
        planned = plan(request)
        if dry_run or not as_json:
            for line in planned.lines(request):
                typer.echo(escaped(line), err=as_json)
        if dry_run:
            return
        with quiet_libraries():
            adopted = run(request, planned, key)
    except BuildError as error:
        fail("adopt", str(error))
    except OSError as error:
        fail("adopt", f"{error.filename or model}: {error.strerror or error}")
    except KeyboardInterrupt:
        interrupted("adopt", "what was there is as it was, and the same command begins anew")
    if as_json:
        print_json(adopted.document())
        return
    adopted.show()
    next_step("serve", "--model-repository", model.parent)


def _variants(given: str) -> tuple[str, ...]:
    """Names that are separated by commas, FP32 first."""
    names = [one_of(name, VARIANTS, "--variants") or "" for name in given.split(",")]
    return ("fp32", *(name for name in dict.fromkeys(names) if name != "fp32"))


app = application(adopt)
