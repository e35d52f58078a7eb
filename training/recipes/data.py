"""Where images come from, and what happens to them before the network."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serving.repository.manifest import EvalTransform
from serving.repository.manifest import Normalization as ManifestNormalization
from training.recipes.fields import STRICT, Fraction, Pair, PositiveInt, Strict

Share = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


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


class _Cut(Strict):
    """A split that a source does not have is cut from its training images, stratified by class;
    `split_seed` decides who is cut."""

    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: int = 0


class _FolderData(_Cut):
    """`root` is relative to the working directory. Its folders train/, val/ and test/ are used as
    they are; those that are missing are cut from train/, or from `root` itself where it has none
    of them. test: the folder that is evaluated on; with "val", validation is cut from train/."""

    root: Path
    test: Literal["test", "val"] = "test"


class ImageFolderData(_FolderData):
    """One folder of images a class, as torchvision's ImageFolder; cuts are stratified by class."""

    source: Literal["image_folder"]


class MaskFolderData(_FolderData):
    """images/NAME.jpg with masks/NAME.png (8-bit class indices) and classes.txt, one class a line.

    ignore_index: value of mask pixels that count neither in the loss nor in any measure. A last
        line of classes.txt at that index names them and is no class. None: 255; but where two
        classes are named and the masks hold 0 and 255 alone, 255 is the second class.
    """

    source: Literal["mask_folder"]
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None


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


class CsvData(_Cut):
    """A CSV file with a heading: a path, relative to the file, and a label in each row; where it
    has `split_column`, that says train, val or test. test: the split that is evaluated on."""

    source: Literal["csv"]
    file: Path
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    test: Literal["test", "val"] = "test"


class _TorchvisionData(_Cut):
    """`root` is where torchvision keeps the set; `download` lets it fetch what is missing there."""

    source: Literal["torchvision"]
    root: Path
    download: bool = False


class TorchvisionLabels(_TorchvisionData):
    """A classification data set by torchvision's name."""

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
    """A segmentation data set by torchvision's name."""

    name: Literal["OxfordIIITPet", "VOCSegmentation"]


ClassificationData = Annotated[
    DigitsData | ImageFolderData | CsvData | TorchvisionLabels, Field(discriminator="source")
]
SegmentationData = Annotated[
    ConnectorsData | MaskFolderData | TorchvisionMasks, Field(discriminator="source")
]


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


class RandomResizedCrop(Strict):
    """A random part of the image, enlarged to all of it: its share of the area and its ratio of
    width to height are drawn between these bounds (arXiv 1409.4842, §6)."""

    area: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "RandomResizedCrop":
        for name, (low, high) in (("area", self.area), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name}: expected the smaller bound first, got [{low}, {high}]")
        return self


class PaddingCrop(Strict):
    """`pixels` are added on every side, and as large a window as before is cut at random: whole
    pixels move, nothing is mixed. mode: black, the edge repeated, or the image mirrored."""

    pixels: PositiveInt
    mode: Literal["constant", "edge", "reflect"] = "constant"


class RandAugment(Strict):
    """`operations` random changes of strength `magnitude` out of 30 (arXiv 1909.13719)."""

    name: Literal["rand_augment"]
    operations: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class TrivialAugment(Strict):
    """One random change of random strength (arXiv 2103.10158)."""

    name: Literal["trivial_augment"]


Policy = Annotated[RandAugment | TrivialAugment, Field(discriminator="name")]


class Augment(Strict):
    """Random changes to training images, drawn anew for each image and epoch; masks follow.

    policy: torchvision's, before all others. shift: at most this many pixels along each axis.
    rotate, shear: at most this many degrees either way. scale: zoom by a factor in
    [1 - scale, 1 + scale]. flip, vertical_flip: left-right, top-bottom, for half of the images.
    quarter_turns: 0 to 3 of them; with flip, all eight ways in which a square can lie.
    brightness, contrast, saturation: factors in [1 - x, 1 + x]. hue: turned by at most this share
    of the colour circle either way. blur: half of the images, by a Gaussian with a sigma of at most
    this many pixels. erase: the share of the images of which a rectangle of 2 to 33 % becomes noise
    (arXiv 1708.04896).
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
