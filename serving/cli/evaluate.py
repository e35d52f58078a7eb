"""`convserve evaluate`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray

from serving.base import evaluation
from serving.base.command import AsJson, application
from serving.base.errors import InvalidInput, ServingError, WrongTask
from serving.base.evaluation import Estimate
from serving.base.folders import IMAGE_SUFFIXES, told
from serving.base.machine.progress import Progress
from serving.base.machine.terminal import next_step
from serving.base.text import counted
from serving.cli.credentials import with_credentials
from serving.cli.labelled import class_folders, identity_folders, mask_pairs, mask_reading
from serving.cli.output import fail, print_json, say, warn
from serving.cli.predictor import (
    Local,
    Predictor,
    Repository,
    Url,
    one_place,
    open_predictor,
    repository_words,
)
from serving.cli.signing import RequireSignature
from serving.cli.table import print_table
from serving.cli.tls_options import with_tls
from serving.client import CallFailed, ClientTls
from serving.images.masks.folders import MaskNames
from serving.images.masks.rules import scaled
from serving.images.masks.settings import MaskSettings

# Calls under way. Fewer leave a server's batches unfilled, more only wait in its queue.
_CONCURRENCY = 32
# Best classes of which one must be right, for the second accuracy beside top-1.
_TOP = 5
# Numbers of nearest gallery images of which one must be right.
_RANKS = (1, 5)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@with_credentials
@with_tls
def evaluate(
    model: Annotated[str, typer.Option(help="Name of the model.")],
    data: Annotated[
        Path,
        typer.Option(help="A folder a class or person, or images/ and masks/ with classes.txt."),
    ],
    url: Url = None,
    model_repository: Repository = None,
    require_signature: RequireSignature = None,
    images: Annotated[
        str | None, typer.Option(help="Folder of the images in DATA, if not a usual name.")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="Folder of the masks in DATA, if not a usual name.")
    ] = None,
    mask_suffix: Annotated[
        str | None, typer.Option(help="End of the masks' names, such as _mask.")
    ] = None,
    colours: Annotated[
        str | None,
        typer.Option(help="Table of the masks' names and colours: voc, cityscapes, ... or a file."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(help="Mask values from this one on are the second of two classes.", min=1),
    ] = None,
    as_json: AsJson = False,
    *,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Measure how accurate a served model is on a labelled folder."""
    local = one_place(url, model_repository, require_signature)
    try:
        named = MaskNames(images, masks, mask_suffix)
        said = MaskSettings(colours=colours, threshold=threshold)
        report = asyncio.run(_evaluate(model, data, url, local, named, said, tls, headers))
    except (ServingError, CallFailed) as error:
        fail(str(error))
    if as_json:
        print_json(report)
    else:
        _print(report)
        if url is None:
            next_step("serve", *repository_words(model_repository))
        else:
            next_step("loadtest", "run", "--url", url, "--model", model)


async def _evaluate(
    model: str,
    data: Path,
    url: str | None,
    local: Local | None,
    named: MaskNames,
    said: MaskSettings,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> dict[str, Any]:
    async with open_predictor(model, url, local, tls, headers) as predictor:
        match predictor.info.task:
            case "classification":
                return await _classification(predictor, data)
            case "segmentation":
                return await _segmentation(predictor, data, named, said)
            case "embedding":
                return await _embedding(predictor, data)
            case _:
                raise WrongTask(f"model {model!r} is for plain tensors: it has no manifest")


async def _classification(predictor: Predictor, data: Path) -> dict[str, Any]:
    classes = predictor.info.labels
    images, left_out = class_folders(data, classes)
    _warn_of(left_out)

    async def one(index: int) -> list[int]:
        content = await asyncio.to_thread(images[index].path.read_bytes)
        found = await predictor.classify(content, _TOP)
        return [label for label, _, _ in found.labels]

    answers, failed = await _each(range(len(images)), one, lambda i: str(images[i].path))
    labels = np.array([images[i].label for i in answers])
    first = np.array([ranked[0] for ranked in answers.values()])
    in_top = [images[i].label in ranked for i, ranked in answers.items()]
    confusion = evaluation.confusion_matrix(labels, first, len(classes))
    reports = evaluation.class_reports(confusion)
    return {
        "model": predictor.info.name,
        "task": "classification",
        "n": len(answers),
        "top1": _estimate(evaluation.accuracy(labels == first)),
        f"top{_TOP}": _estimate(evaluation.accuracy(np.array(in_top, dtype=np.bool_))),
        "classes": {
            name: {
                "precision": r.precision,
                "recall": r.recall,
                "specificity": r.specificity,
                "f1": r.f1,
                "f2": r.f_beta,
                "n": r.support,
            }
            for name, r in zip(classes, reports, strict=True)
            if r.support
        },
        "left_out": dict(left_out),
        "failed": failed,
    }


async def _segmentation(
    predictor: Predictor, data: Path, named: MaskNames, said: MaskSettings
) -> dict[str, Any]:
    classes = predictor.info.labels
    pairs, left_out, *_ = mask_pairs(data, named)
    _warn_of(left_out)
    masks = [pair.mask for pair in pairs]
    reading = await asyncio.to_thread(mask_reading, data, classes, masks, said)
    if reading.rule.note:
        warn(reading.rule.note)
    uncounted: set[str] = set()

    async def one(index: int) -> NDArray[np.int64]:
        pair = pairs[index]
        content = await asyncio.to_thread(pair.path.read_bytes)
        truth, unnamed = await asyncio.to_thread(reading.read, pair.mask)
        uncounted.update(unnamed)
        found = await predictor.segment(content, overlay=False)
        height, width = found.mask.shape
        truth = scaled(truth, (height, width))
        return evaluation.overlaps(
            evaluation.confusion_matrix(truth, found.mask, len(classes), ignore_index=-1)
        )

    answers, failed = await _each(range(len(pairs)), one, lambda i: str(pairs[i].path))
    if strange := sorted(uncounted):
        warn(f"values of masks that are no class and do not count: {', '.join(strange[:10])}")
    counts = np.stack(list(answers.values()))
    iou = evaluation.overlap_iou(counts.sum(axis=0))
    return {
        "model": predictor.info.name,
        "task": "segmentation",
        "n": len(answers),
        "miou": _estimate(evaluation.mean_iou(counts)),
        # The second of two classes is the foreground.
        **({"iou": _estimate(evaluation.foreground_iou(counts))} if len(classes) == 2 else {}),
        "classes": {
            name: {"iou": float(value)}
            for name, value in zip(classes, iou, strict=True)
            if np.isfinite(value)
        },
        "left_out": dict(left_out),
        "failed": failed,
    }


async def _embedding(predictor: Predictor, data: Path) -> dict[str, Any]:
    images, names, left_out = identity_folders(data)
    _warn_of(left_out)

    async def one(index: int) -> NDArray[np.float32]:
        content = await asyncio.to_thread(images[index].path.read_bytes)
        return (await predictor.embed(content)).values

    answers, failed = await _each(range(len(images)), one, lambda i: str(images[i].path))
    embeddings = np.stack(list(answers.values()))
    identities = np.array([images[i].label for i in answers])
    try:
        verified = evaluation.verification(embeddings, identities)
        ranked = evaluation.identification(embeddings, identities, _RANKS)
    except ValueError as error:
        raise InvalidInput(f"{data}: {error}") from error
    return {
        "model": predictor.info.name,
        "task": "embedding",
        "n": len(answers),
        "identities": len(names),
        "pairs": {"genuine": verified.genuine_pairs, "impostor": verified.impostor_pairs},
        "eer": verified.eer,
        "auc": verified.curve.auc,
        **{f"tar@far={far:g}": _estimate(e) for far, e in verified.tar_at_far.items()},
        **{f"rank{k}": _estimate(e) for k, e in ranked.items()},
        "left_out": dict(left_out),
        "failed": failed,
    }


async def _each(
    items: Sequence[int],
    one: Callable[[int], Awaitable[Outcome]],
    name: Callable[[int], str],
) -> tuple[dict[int, Outcome], dict[str, str]]:
    """Runs `one` for every item, _CONCURRENCY at a time. Returns the outcomes by item, and the
    reasons of failures by name.

    Raises InvalidInput where every item failed.
    """
    limit = asyncio.Semaphore(_CONCURRENCY)
    outcomes: dict[int, Outcome] = {}
    failed: dict[str, str] = {}

    async def guarded(item: int) -> None:
        async with limit:
            try:
                outcomes[item] = await one(item)
            except (ServingError, CallFailed, OSError) as error:
                failed[name(item)] = str(error)
                warn(f"{name(item)}: {error}")

    jobs = [asyncio.create_task(guarded(item)) for item in items]
    with Progress("evaluate", len(jobs)) as progress:
        for job in asyncio.as_completed(jobs):
            await job
            progress.advance()
    if not outcomes:
        raise InvalidInput(f"none of {len(items)} images could be evaluated")
    return dict(sorted(outcomes.items())), dict(sorted(failed.items()))


def _warn_of(left_out: Mapping[str, int]) -> None:
    if left_out:
        warn(f"files left out: {told(left_out)}; images end in {', '.join(IMAGE_SUFFIXES)}")


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _print(report: dict[str, Any]) -> None:
    say(f"{report['model']}: {report['task']}, {report['n']} images")
    for measure, found in report.items():
        if isinstance(found, dict) and found.keys() == {"value", "low", "high"}:
            say(
                f"{measure:>13}  {found['value']:.2%}  (95 %: {found['low']:.2%} to "
                f"{found['high']:.2%})"
            )
    if "eer" in report:
        say(
            f"{'eer':>13}  {report['eer']:.2%}  ({report['pairs']['genuine']} genuine and "
            f"{report['pairs']['impostor']} impostor pairs)"
        )
        say(f"{'auc':>13}  {report['auc']:.2%}")
    if "classes" in report:
        columns = list(next(iter(report["classes"].values())))
        rows = [
            [name, *(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values.values())]
            for name, values in report["classes"].items()
        ]
        print_table(["class", *columns], rows)
    if report["failed"]:
        say(f"{counted(len(report['failed']), 'image')} could not be evaluated (named above)")


app = application(evaluate)
