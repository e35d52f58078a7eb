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


class IdentityFolderData(Strict):
    """One folder of pictures a person, `root` relative to the working directory. Nobody is in two
    splits.

    The folders train/, val/ and test/ are used as they are. Of those that are missing,
    `test_identities` and `val_identities` (names, or ranges such as "s21..s30") are taken from
    train/, or from `root` itself where it has none of them; without names, the fractions of the
    people are cut at random. val_by "pictures" holds out that fraction of the pictures of each
    training person instead, where there are too few people to spare some.
    """

    source: Literal["identity_folder"]
    root: Path
    test_identities: tuple[str, ...] = ()
    val_identities: tuple[str, ...] = ()
    val_by: Literal["identities", "pictures"] = "identities"
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    split_seed: int = 0

    @model_validator(mode="after")
    def _one_way_to_val(self) -> "IdentityFolderData":
        if self.val_identities and self.val_by == "pictures":
            raise ValueError(
                "val_identities names people, but val_by: pictures takes pictures of all of them"
            )
        return self


ClassificationData = Annotated[DigitsData | ImageFolderData, Field(discriminator="source")]
SegmentationData = Annotated[ConnectorsData | MaskFolderData, Field(discriminator="source")]


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
