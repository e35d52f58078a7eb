"""`convserve shards`: writes tar shards from a folder or from the data of a recipe."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from serving.base.command import AsJson, application
from serving.base.text import counted, escaped, first_problem
from training.cli.terminal import fail, interrupted, print_json, set_up_logging
from training.errors import BuildError
from training.recipes.remote.storage import Address, Storage

if TYPE_CHECKING:
    from training.data.samples import Dataset

log = logging.getLogger(__name__)


def shards(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|RECIPE",
            help="A folder with a folder a class, with images/, masks/ and classes.txt, or with a "
            "table of paths; or a recipe (.yaml), whose data are taken.",
        ),
    ],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="A folder, or a URL such as s3://BUCKET/SET.")
    ],
    images: Annotated[
        int, typer.Option(min=1, help="Most images of a shard.", metavar="COUNT")
    ] = 10_000,
    megabytes: Annotated[
        int, typer.Option(min=1, max=16_000, help="About the most MB of a shard.", metavar="MB")
    ] = 256,
    val_fraction: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share cut for val where it has no folder.")
    ] = 0.1,
    test_fraction: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share cut for test where it has no folder.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Decides the cut and the order of train.")] = 0,
    endpoint_url: Annotated[
        str | None,
        typer.Option(help="Address of an S3- or GCS-compatible store.", metavar="URL"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write tar shards with an index from images that lie in files.

    The files' bytes stay as they are. Interrupted, the same command goes on where it stopped.
    Credentials of a store come from the environment.
    """
    set_up_logging()
    address, storage = _address(out), _storage(endpoint_url)
    log.info("shards: %s to %s; loading torch", source, out)
    try:
        # Imported here: a wrong option is told at once, and torch takes seconds to import.
        from training.data.shards.write import Limits, write_shards
        from training.data.storage.store import Store

        data = _files(source, val_fraction, test_fraction, seed)
        limits = Limits(images, megabytes * 1_000_000)
        index = write_shards(data, address, limits, seed, Store(storage))
    except (BuildError, OSError) as error:
        fail("shards", str(error))
    except KeyboardInterrupt:
        interrupted("shards", "the same command goes on from where this one stopped")
    if as_json:
        print_json({"out": out, **index.model_dump(mode="json")})
        return
    for name, split in index.splits.items():
        files = counted(len(split.shards), "shard")
        typer.echo(f"{name}: {counted(split.images, 'image')} in {files}")
    typer.echo(escaped(f"In a recipe: data: {{source: shards, train: {out}}}"))


def _storage(endpoint_url: str | None) -> Storage:
    try:
        return Storage(endpoint_url=endpoint_url)
    except ValidationError as error:
        raise typer.BadParameter(first_problem(error)[1], param_hint="--endpoint-url") from None


def _address(out: str) -> str:
    try:
        return TypeAdapter(Address).validate_python(out)
    except ValidationError as error:
        raise typer.BadParameter(first_problem(error)[1], param_hint="OUT") from None


def _files(source: str, val_fraction: float, test_fraction: float, seed: int) -> "Dataset":
    """The data set of a folder or a recipe, of which no image is read."""
    from serving.base.task import Task
    from serving.repository.manifest import EvalTransform
    from training.data import load_source
    from training.data.layout.opened import dataset_of, first_opened, unlabelled
    from training.data.layout.walk import walk
    from training.data.samples import files_alone
    from training.recipes import SegmentationRecipe, load_recipe

    with files_alone():
        if source.endswith((".yaml", ".yml")):
            recipe = load_recipe(Path(source))
            if isinstance(recipe, SegmentationRecipe):
                # Shards hold the classes of the files, which a recipe may read as two.
                recipe = recipe.model_copy(update={"binary": False})
            return load_source(recipe)
        cut = {"val_fraction": val_fraction, "test_fraction": test_fraction, "split_seed": seed}
        seen = EvalTransform(resize=(32, 32))
        tasks: tuple[Task, ...] = ("segmentation", "classification")
        tree = walk(Path(source))
        found = first_opened(
            tree, tasks, lambda kind, _, task: dataset_of(task, {**kind.data, **cut}, seen)
        )
        if found is None:
            raise unlabelled(tree, tasks)
        return found


app = application(shards)
