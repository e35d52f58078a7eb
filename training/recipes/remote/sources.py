"""Sources that are larger than memory or disk: tar shards, and folders behind a URL."""

from typing import Annotated, Literal

from pydantic import Field

from training.recipes.fields import Cut, PositiveInt
from training.recipes.remote.storage import Address, Storage, Url

Shards = Address | Annotated[tuple[Address, ...], Field(min_length=1)]


class ShardsData(Cut):
    """Tar shards in WebDataset's layout: KEY.jpg with KEY.cls, .json or .txt; masks as KEY.seg.png
    or KEY.mask.png.

    train, val, test: a folder that `convserve shards` wrote, which has all splits; or .tar files,
        as paths or URLs, with {000000..000099}, * or ?, one or a list. Without an index shards are
        read once to find their images. A split that is not there is cut from train at random.
    classes: names of labels that are numbers, or of the masks' values; for shards without an index.
        None: the labels themselves, in ASCII order.
    label_field: of .json, the field of the class. None: label, class, cls, class_name or category.
    ignore_index: value of mask pixels that count nowhere; for shards without an index.
    shuffle_window: images of a process among which the next one is drawn. Larger mixes better, and
        takes the memory of so many files.
    on_error: "skip" replaces training images that cannot be decoded by others, up to 1 %.
    storage: of URLs.
    """

    source: Literal["shards"]
    train: Shards
    val: Shards | None = None
    test: Shards | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    label_field: str | None = None
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255
    shuffle_window: PositiveInt = 10_000
    on_error: Literal["error", "skip"] = "error"
    storage: Storage = Storage()


class RemoteFolderData(Cut):
    """A folder behind a URL, laid out as image_folder or, for a segmentation, as mask_folder. It is
    listed once; its files are read when a batch asks for them.

    root: the folder's URL.
    ignore_index: value of mask pixels that count nowhere.
    """

    source: Literal["remote_folder"]
    root: Url
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255
    storage: Storage = Storage()
