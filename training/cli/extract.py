"""`convserve extract`: the test images of a recipe as folders, which `convserve evaluate` reads."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.base.command import AsJson, application, one_of
from serving.base.machine.terminal import next_step
from serving.base.text import counted, escaped
from training.cli.terminal import fail, interrupted, print_json, set_up_logging
from training.errors import BuildError

if TYPE_CHECKING:
    from training.data.readers import Targets
    from training.recipes import Recipe

log = logging.getLogger(__name__)


def extract(
    recipe: Annotated[Path, typer.Argument(help="The recipe whose data are taken.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Write the test images of a recipe as folders: a folder a class or person, or images/, masks/
    and classes.txt.

    The bytes of files stay as they are; images that are no files become PNGs. Where a source has no
    test split, they are those that the build cuts off and never trains on.
    """
    set_up_logging()
    one_of(split, ("test", "val", "train"), "--split")
    try:
        # Before the seconds that torch takes, and the minutes that data may take.
        if out.is_dir() and any(out.iterdir()):
            fail("extract", f"{out} is not empty")
        log.info("extract: %s of %s to %s; loading torch", split, recipe, out)
        from training.recipes import load_recipe

        given = load_recipe(recipe)
        count = _write(given, split, out)
    except (BuildError, OSError) as error:
        fail("extract", str(error))
    except KeyboardInterrupt:
        interrupted("extract", f"{out} is as it was")
    if as_json:
        print_json({"folder": str(out), "split": split, "images": count, "model": given.name})
        return
    typer.echo(escaped(f"{out}: {counted(count, 'image')} of {split}"))
    next_step("evaluate", "--model", given.name, "--data", out, "--url", "localhost:8001")


def _write(recipe: "Recipe", split: str, out: Path) -> int:
    import numpy as np

    from training.data import load_originals
    from training.data.binary import IGNORED, binary_classes, foreground
    from training.data.layout.written import write_split
    from training.errors import DataError
    from training.recipes import SegmentationRecipe

    binary = isinstance(recipe, SegmentationRecipe) and recipe.binary
    # Two classes are made of the source's own below.
    data = load_originals(recipe.model_copy(update={"binary": False}) if binary else recipe)

    def of_model(targets: "Targets") -> "Targets":
        if binary:
            return foreground(targets, data.ignore_index)
        if data.ignore_index is None or recipe.task != "segmentation":
            return targets
        return np.where(targets == data.ignore_index, IGNORED, targets)

    classes = binary_classes(data.classes) if binary else data.classes
    try:
        return write_split(getattr(data, split), classes, recipe.task, out, of_model)
    except DataError as error:
        raise DataError(f"{data.name}: {error}") from error


app = application(extract)
