"""Sources of images, and their way to the network: splits, folds, transform, augmentation."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serving.repository.manifest import EvalTransform
from serving.repository.manifest import Normalization as ManifestNormalization
from training.recipes.fields import (
    STRICT,
    Cut,
    FolderData,
    Fraction,
    Pair,
    PositiveInt,
    Strict,
)
from training.recipes.masks import CocoData, LabelmeData, MaskFolderData, VocData
from training.recipes.remote.sources import RemoteFolderData, ShardsData

Share = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]

# What a recipe of one channel takes where it says nothing: the means of ImageNet's three values.
IMAGENET: dict[int, dict[str, tuple[float, ...]]] = {
    3: {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    1: {"mean": (0.449,), "std": (0.226,)},
}

# Of images whose pixels have classes.
NO_CROP = (
    "a segmentation answers for the whole image, and a crop would leave its border without one; "
    "give resize as [height, width]"
)

# The column of a table that says the split, where the recipe names no other.
SPLIT_COLUMN = "split"


class DigitsData(Strict):
    """scikit-learn's 1,797 handwritten digits as 32×32 RGB.

    split_seed: decides which images are held out.
    """

    source: Literal["digits"]
    split_seed: int = 0


class ConnectorsData(Strict):
    """USB connectors that the project renders, with exact masks. Every image has its own seed.

    size: side in pixels.
    train, val, test: number of images.
    """

    source: Literal["connectors"]
    size: Annotated[int, Field(ge=32)] = 96
    train: PositiveInt = 800
    val: PositiveInt = 100
    test: PositiveInt = 300


class ImageFolderData(FolderData):
    """One folder of images a class, as torchvision's ImageFolder. A metadata.csv, metadata.jsonl or
    metadata.parquet in a split's folder gives the labels instead, as Hugging Face's imagefolder has
    it: a column file_name, and one with the label.

    root: one folder, or several, whose images are taken together.
    label_column: of the metadata; None: label, class, category or the like.
    """

    source: Literal["image_folder"]
    root: Path | Annotated[tuple[Path, ...], Field(min_length=1)]  # type: ignore[assignment]
    label_column: str | None = None


class IdentityFolderData(Strict):
    """One folder of pictures a person. Nobody is in two splits.

    Folders train/, val/ and test/ are used as they are. People for missing ones are taken from
    train/, or from `root` where it has none of them.

    root: relative to the working directory.
    test_identities, val_identities: people to take, as names or ranges such as "s21..s30"; without
        them a fraction of the people is taken at random.
    val_by: "pictures" holds out pictures of each training person instead of people, for data with
        few people.
    val_fraction, test_fraction: share of the people, or of the pictures, that is taken.
    split_seed: decides who is taken.
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


class TableData(Cut):
    """Tables with a row an image: CSV, TSV, JSON lines (.jsonl) or Parquet, by the file's ending.

    file: one file, several, or a folder of them. Files of several are splits by the first word of
        their names (train-00000-of-00002.parquet), where there is no column for it.
    root: folder of the paths, which may not leave it; None: that of the file.
    path_column: paths; in Parquet also bytes, or bytes and path as Hugging Face stores images.
        None: path, file_name, filename, file, image or image_path, the first that is there.
    label_column: None: label, class, category or target.
    split_column: holds train, val or test; a file without the default one is cut.
    classes: names of labels that are numbers from 0: a list, or a file with one a line. None: those
        that Hugging Face's schema names; else the labels themselves.
    test: the split that is evaluated on.
    """

    source: Literal["table"]
    file: Path | Annotated[tuple[Path, ...], Field(min_length=1)]
    root: Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str = SPLIT_COLUMN
    classes: tuple[str, ...] | Path | None = None
    test: Literal["test", "val"] = "test"


class _TorchvisionData(Cut):
    """A public data set.

    root: the folder in which torchvision keeps the set.
    download: fetches the set where it is missing.
    """

    source: Literal["torchvision"]
    root: Path
    download: bool = False


class TorchvisionLabels(_TorchvisionData):
    """A classification data set.

    name: torchvision's.
    """

    name: Literal[
        "MNIST",
        "FashionMNIST",
        "KMNIST",
        "CIFAR10",
        "CIFAR100",
        "SVHN",
        "STL10",
        "EuroSAT",
        "Food101",
        "Flowers102",
        "DTD",
        "OxfordIIITPet",
    ]


class TorchvisionMasks(_TorchvisionData):
    """A segmentation data set.

    name: torchvision's.
    """

    name: Literal["OxfordIIITPet", "VOCSegmentation"]


ClassificationData = Annotated[
    DigitsData | ImageFolderData | TableData | TorchvisionLabels | ShardsData | RemoteFolderData,
    Field(discriminator="source"),
]
SegmentationData = Annotated[
    ConnectorsData
    | MaskFolderData
    | VocData
    | CocoData
    | LabelmeData
    | TorchvisionMasks
    | ShardsData
    | RemoteFolderData,
    Field(discriminator="source"),
]


class Fold(Strict):
    """One round of cross-validation: training and validation images are joined and cut into parts,
    stratified by class. The test split stays.

    index: the part, from 0, that validates; the others train.
    count: number of parts.
    seed: decides which images are in which part.
    """

    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=2)]
    seed: int = 0

    @model_validator(mode="after")
    def _index_counts_folds(self) -> "Fold":
        if self.index >= self.count:
            raise ValueError(f"index must be under count, {self.count}; got {self.index}")
        return self


class Transform(EvalTransform):
    """The evaluation transform, which the server applies too: resize by `filter`, then crop.

    channels: 3 for RGB, 1 for grey. Colours become luma, a grey file three equal channels.
    """

    model_config = STRICT

    resize: PositiveInt | Pair
    crop: Pair | None = None

    @model_validator(mode="after")
    def _has_a_size(self) -> "Transform":
        self.size  # noqa: B018 - raises ValueError with the reason where the size is open
        return self


class Normalization(ManifestNormalization):
    """(pixel / 255 - mean) / std, one value a channel; the defaults are IMAGENET's.

    mean, std: of the channels, for pixels in [0, 1].
    """

    model_config = STRICT

    mean: tuple[float, ...] = IMAGENET[3]["mean"]
    std: tuple[PositiveFloat, ...] = IMAGENET[3]["std"]


class RandomResizedCrop(Strict):
    """A random part of the image, resized to the whole (arXiv 1409.4842, §6).

    area: bounds of the part's share of the area.
    ratio: bounds of its width over its height.
    """

    area: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "RandomResizedCrop":
        for name, (low, high) in (("area", self.area), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name}: expected the smaller bound first, got [{low}, {high}]")
        return self


class PaddingCrop(Strict):
    """The image is padded, and a window of its former size is cut at random, by whole pixels.

    pixels: padding on every side.
    mode: black, the edge repeated, or the image mirrored.
    """

    pixels: PositiveInt
    mode: Literal["constant", "edge", "reflect"] = "constant"


class RandAugment(Strict):
    """Random changes of equal strength (arXiv 1909.13719). A batch has 16 draws at most.

    operations: number of changes an image.
    magnitude: their strength, up to 30.
    """

    name: Literal["rand_augment"]
    operations: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class TrivialAugment(Strict):
    """One random change of random strength (arXiv 2103.10158). A batch has 16 draws at most."""

    name: Literal["trivial_augment"]


Policy = Annotated[RandAugment | TrivialAugment, Field(discriminator="name")]


class Augment(Strict):
    """Random changes to training images, drawn anew for each image and epoch; masks follow.

    policy: torchvision's; runs before all others.
    shift: most pixels along each axis.
    rotate, shear: most degrees either way.
    scale: zoom by a factor in [1 - scale, 1 + scale].
    flip: mirrors half of the images left to right.
    vertical_flip: mirrors half of the images top to bottom.
    quarter_turns: 0 to 3 turns by 90 degrees.
    brightness, contrast, saturation: factors in [1 - x, 1 + x].
    hue: largest turn either way, as a share of the colour circle. Grey has neither hue nor
        saturation.
    blur: largest sigma of a Gaussian in pixels, for half of the images.
    erase: share of the images in which a rectangle of 2 to 33 % becomes noise (arXiv 1708.04896).
    """

    policy: Policy | None = None
    random_resized_crop: RandomResizedCrop | None = None
    padding_crop: PaddingCrop | None = None
    shift: Annotated[int, Field(ge=0)] = 0
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    shear: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    brightness: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    contrast: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    blur: Annotated[float, Field(ge=0.0)] = 0.0
    erase: Fraction = 0.0
