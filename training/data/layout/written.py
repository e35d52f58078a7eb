"""A split as folders that `convserve evaluate` reads, whatever its source reads."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from serving.base.errors import InvalidInput, quoted
from serving.base.files import is_plain_name
from serving.base.folders import IMAGE_SUFFIXES, is_passed_over
from serving.base.machine.progress import Progress
from serving.base.task import Task
from serving.images.masks.folders import CLASSES_FILE
from training.data.readers import Original, Reader, Targets, as_png
from training.data.samples import FileSamples, Samples
from training.data.shards.samples import ShardSamples
from training.errors import DataError

# The ending of images that have none; they are decoded by their content.
_ENDING = ".jpg"
# Holds what is written until all of it is there. No class has such a name.
_UNFINISHED = ".unfinished"
# Characters of a source's name that a file keeps behind its number.
_STEM = 100


def write_split(
    samples: Samples,
    classes: Sequence[str],
    task: Task,
    out: Path,
    change: Callable[[Targets], Targets],
) -> int:
    """Writes OUT/CLASS/NAME, OUT/PERSON/NAME, or OUT/images/NAME with OUT/masks/NAME.png and
    classes.txt; gives the number of images. The bytes of files stay as they are; images that are no
    files become PNGs.

    change: makes the model's classes of the source's; masks then hold these, and 255 for pixels
        that do not count, at the size of their image.
    All of it appears at the end: whoever interrupts it finds `out` empty. Raises DataError for a
    file that cannot be read, and where `out` holds something.
    """
    odd = [name for name in classes if not is_plain_name(name) or is_passed_over(name)]
    if task == "classification" and odd:
        raise DataError(f"the class {quoted(odd[0])} cannot be the name of a folder")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty")
    place = out / _UNFINISHED
    place.mkdir()
    try:
        _write_all(samples, classes, task, place, change)
        for entry in sorted(place.iterdir()):
            entry.rename(out / entry.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return len(samples)


def _write_all(
    samples: Samples,
    classes: Sequence[str],
    task: Task,
    out: Path,
    change: Callable[[Targets], Targets],
) -> None:
    if task == "segmentation":
        (out / CLASSES_FILE).write_text("\n".join(classes) + "\n")
    with Progress("extract", len(samples)) as progress:
        for number, (name, (content, target)) in enumerate(_originals(samples)):
            target = change(target)
            file = _file(number, PurePath(name))
            if task == "segmentation":
                _write(out / "images" / file, content)
                mask = out / "masks" / PurePath(file).with_suffix(".png")
                mask.parent.mkdir(exist_ok=True)
                Image.fromarray(target.astype(np.uint8)).save(mask)
            else:
                label = int(target)
                folder = classes[label] if label < len(classes) else f"person-{label:06}"
                _write(out / folder / file, content)
            progress.advance()


def _originals(samples: Samples) -> Iterator[tuple[str, Original]]:
    """Every image by its name; DataErrors name it too."""
    if isinstance(samples, ShardSamples):
        yield from samples.originals()
    elif isinstance(samples, FileSamples) and isinstance(samples.load, Reader):
        for name, item in zip(samples.names, samples.items, strict=True):
            try:
                yield name, samples.load.original(item)
            except (DataError, InvalidInput, OSError) as error:
                raise DataError(f"{name}: {error}") from error
    else:
        for index, name in enumerate(samples.names):
            images, targets = samples.batch([index])
            yield f"{name}.png", Original(as_png(images[0]), targets[0])


def _file(number: int, name: PurePath) -> str:
    ending = name.suffix if name.suffix.lower() in IMAGE_SUFFIXES else _ENDING
    return f"{number:06}-{name.stem[:_STEM].replace('.', '-')}{ending}"


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
