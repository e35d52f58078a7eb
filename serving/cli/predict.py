"""`convserve predict`."""

import asyncio
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from serving.base.command import AsJson, application
from serving.base.errors import InvalidInput, ServingError
from serving.base.files import write_whole
from serving.base.folders import why_no_folder
from serving.base.machine.progress import Progress
from serving.base.machine.terminal import next_step
from serving.cli.credentials import with_credentials
from serving.cli.output import fail, print_json, say, warn
from serving.cli.predictor import (
    Labels,
    Local,
    MaskResult,
    Predictor,
    Repository,
    Url,
    one_place,
    open_predictor,
    place_words,
)
from serving.cli.signing import RequireSignature
from serving.cli.tls_options import with_tls
from serving.client import CallFailed, ClientTls
from serving.images.postprocess import palette
from serving.server.endpoints.vision import DEFAULT_TOP_K


@with_credentials
@with_tls
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...")],
    model: Annotated[str, typer.Option(help="Name of the model.")],
    url: Url = None,
    model_repository: Repository = None,
    require_signature: RequireSignature = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels an image.")] = DEFAULT_TOP_K,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Folder for NAME.mask.png and NAME.overlay.png; images of one name are numbered."
        ),
    ] = None,
    as_json: AsJson = False,
    *,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Print labels, masks or embeddings of image files.

    For all images of a folder, `convserve score` writes the answers into a table.
    """
    local = one_place(url, model_repository, require_signature)
    for path in images:
        if path.is_dir():
            raise typer.BadParameter(
                f"{path}: a folder; expected image files (`convserve score {path} --model {model} "
                "--out answers.parquet` answers all images below it)",
                param_hint="IMAGE",
            )
    if save is not None and save.exists() and not save.is_dir():
        raise typer.BadParameter(f"{save}: {why_no_folder(save)}", param_hint="--save")
    try:
        results = asyncio.run(_predict_all(images, model, url, local, top_k, save, tls, headers))
    except (ServingError, CallFailed) as error:
        fail(str(error))
    _compare(results)
    if as_json:
        print_json(results)
    else:
        for result in results:
            _print(result)
    if any("error" in result for result in results):
        raise typer.Exit(1)
    if not as_json:
        place = place_words(url, model_repository)
        next_step("evaluate", "--model", model, "--data", "FOLDER", *place)


async def _predict_all(
    images: list[Path],
    model: str,
    url: str | None,
    local: Local | None,
    top_k: int,
    save: Path | None,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> list[dict[str, Any]]:
    results = []
    places = _places(images, save) if save is not None else [None] * len(images)
    async with open_predictor(model, url, local, tls, headers) as predictor:
        with Progress("predict", len(images)) as progress:
            for path, place in zip(images, places, strict=True):
                results.append(await _outcome(predictor, path, top_k, place))
                progress.advance()
    return results


async def _outcome(
    predictor: Predictor, path: Path, top_k: int, place: Path | None
) -> dict[str, Any]:
    """What the model says of an image, or why it cannot."""
    try:
        return await _predict(predictor, path, top_k, place)
    except (ServingError, CallFailed, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        warn(f"{path}: {reason}")
        return {"image": str(path), "error": reason}


def _places(images: list[Path], folder: Path) -> list[Path]:
    """Where the files of each image go: its name without the suffix, to which `_save` adds its own.
    A name that was taken before, or whose file would replace one of the images, gets a number."""
    sources = {path.resolve() for path in images}
    taken: set[str] = set()
    tried: Counter[str] = Counter()
    places = []
    for path in images:
        place = folder / path.stem
        # Some file systems take no note of case.
        while place.name.casefold() in taken or any(
            file.resolve() in sources for file in _files(place).values()
        ):
            tried[path.stem] += 1
            place = folder / f"{path.stem}-{tried[path.stem] + 1}"
        taken.add(place.name.casefold())
        places.append(place)
    return places


def _files(place: Path) -> dict[str, Path]:
    return {kind: place.with_name(f"{place.name}.{kind}.png") for kind in ("mask", "overlay")}


async def _predict(
    predictor: Predictor, path: Path, top_k: int, place: Path | None
) -> dict[str, Any]:
    data = await asyncio.to_thread(path.read_bytes)
    if predictor.info.task == "segmentation":
        found = await predictor.segment(data, overlay=place is not None)
        files = _save(found, place) if place is not None else {}
        return _mask_document(path, found, files)
    if predictor.info.task == "embedding":
        point = await predictor.embed(data)
        return {"image": str(path), "variant": point.variant, "embedding": point.values.tolist()}
    return _labels_document(path, await predictor.classify(data, top_k))


def _labels_document(path: Path, found: Labels) -> dict[str, Any]:
    labels = [{"index": i, "name": name, "score": score} for i, name, score in found.labels]
    return {"image": str(path), "variant": found.variant, "labels": labels}


def _mask_document(path: Path, found: MaskResult, files: dict[str, str]) -> dict[str, Any]:
    areas = [
        {"index": i, "name": name, "fraction": fraction, "confidence": confidence}
        for i, name, fraction, confidence in found.areas
    ]
    height, width = found.mask.shape
    return {
        "image": str(path),
        "variant": found.variant,
        "height": height,
        "width": width,
        "areas": areas,
        **files,
    }


def _save(found: MaskResult, place: Path) -> dict[str, str]:
    """Writes the mask (class indices with a palette) and the overlay. Returns the paths by kind.
    Raises InvalidInput where the folder takes no files."""
    files = _files(place)
    if found.mask.max(initial=0) < 256:
        image = Image.fromarray(found.mask.astype("uint8"))
        image.putpalette(palette(256).tobytes())
    else:
        image = Image.fromarray(found.mask)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        write_whole(files["mask"], encoded.getvalue())
        write_whole(files["overlay"], found.overlay_png)
    except OSError as error:
        raise InvalidInput(f"--save {place.parent}: {error.strerror}") from error
    return {kind: str(file) for kind, file in files.items()}


def _compare(results: list[dict[str, Any]]) -> None:
    """Adds to each embedding its cosine with the first one."""
    embedded = [result for result in results if "embedding" in result]
    for result in embedded:
        cosine = np.dot(result["embedding"], embedded[0]["embedding"])
        result["similarity"] = {"to": embedded[0]["image"], "cosine": float(cosine)}


def _print(result: dict[str, Any]) -> None:
    if "error" in result:
        return
    if "embedding" in result:
        similarity = result["similarity"]
        say(
            f"{result['image']} ({result['variant']})  {len(result['embedding'])} values, "
            f"cosine {similarity['cosine']:.4f} with {similarity['to']}"
        )
        return
    say(f"{result['image']} ({result['variant']})")
    for label in result.get("labels", ()):
        say(f"  {label['score']:7.2%}  {label['name']}")
    for area in result.get("areas", ()):
        say(f"  {area['fraction']:7.2%}  {area['name']} (confidence {area['confidence']:.2f})")
    for kind in ("mask", "overlay"):
        if kind in result:
            say(f"  {kind} -> {result[kind]}")


app = application(predict)
