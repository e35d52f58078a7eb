"""Where images come from, and what happens to them before the network."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serving.manifest import EvalTransform
from serving.manifest import Normalization as ManifestNormalization
from training.recipe.fields import STRICT, Pair, PositiveInt, Strict


class DigitsData(Strict):
    """scikit-learn's 1,797 handwritten digits as 32×32 RGB; the seed decides who is held out."""

    source: Literal["digits"]
    split_seed: int = 0


class ConnectorsData(Strict):
    """USB connectors that the project renders, with exact masks. `size` is the side in pixels.

    Image i of a split is drawn from its own seed; the splits' seed ranges are disjoint.
    """

    source: Literal["connectors"]
    size: Annotated[int, Field(ge=32)] = 96
    train: PositiveInt = 800
    val: PositiveInt = 100
    test: PositiveInt = 300


class _FolderData(Strict):
    """`root` is relative to the working directory. Its folders train/, val/ and test/ are used as
    they are; of those that are missing, the fractions are cut from train/, or from `root` itself
    where it has none of them. `split_seed` decides who is cut."""

    root: Path
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: int = 0


class ImageFolderData(_FolderData):
    """One folder of images a class, as torchvision's ImageFolder; cuts are stratified by class."""

    source: Literal["image_folder"]


class MaskFolderData(_FolderData):
    """images/NAME.jpg with masks/NAME.png (8-bit class indices) and classes.txt, one class a line.

    Pixels of `ignore_index` count neither in the loss nor in any measure.
    """

    source: Literal["mask_folder"]
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255


ClassificationData = Annotated[DigitsData | ImageFolderData, Field(discriminator="source")]
SegmentationData = Annotated[ConnectorsData | MaskFolderData, Field(discriminator="source")]


class Fold(Strict):
    """One round of cross-validation: training and validation images are put together and cut into
    `count` parts by `seed`, stratified by class; part `index`, from 0, validates, the others train.
    The test split stays."""

    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=2)]
    seed: int = 0

    @model_validator(mode="after")
    def _index_counts_folds(self) -> "Fold":
        if self.index >= self.count:
            raise ValueError(f"index must be under count, {self.count}; got {self.index}")
        return self


class Transform(EvalTransform):
    """The evaluation transform, which the server applies too: resize, then crop, by `filter`."""

    model_config = STRICT

    resize: PositiveInt | Pair
    crop: Pair | None = None

    @model_validator(mode="after")
    def _has_a_size(self) -> "Transform":
        self.size  # noqa: B018 - raises ValueError with the reason where the size is open
        return self


class Normalization(ManifestNormalization):
    """(pixel / 255 - mean) / std for R, G, B; the defaults are ImageNet's."""

    model_config = STRICT

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[
        Annotated[float, Field(gt=0.0)],
        Annotated[float, Field(gt=0.0)],
        Annotated[float, Field(gt=0.0)],
    ] = (0.229, 0.224, 0.225)


class Augment(Strict):
    """Random changes to training images, drawn anew for each image and epoch; masks follow.

    shift: at most this many pixels along each axis. rotate: at most this many degrees either way.
    scale: zoom by a factor in [1 - scale, 1 + scale]. flip: left-right, for half of the images.
    quarter_turns: 0 to 3 of them; with flip, all eight ways in which a square can lie.
    brightness, contrast: factors in [1 - x, 1 + x].
    """

    shift: Annotated[int, Field(ge=0)] = 0
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    flip: bool = False
    quarter_turns: bool = False
    brightness: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    contrast: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
