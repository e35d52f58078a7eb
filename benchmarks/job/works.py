"""The works, as data: the network, its images, and how callers ask for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.job.data import Images, cifar10, patches, photographs, scenes

_RECIPES = Path(__file__).with_name("recipes")

# Of the small form: it shows that everything runs, its networks are not worth serving.
_HASTY = (
    # With fewer images to validate on, one answer is more than the bound of the search.
    "data.val_fraction=0.2",
    "train.epochs=1",
    "prune.train.epochs=1",
    "search.trials=4",
    "search.images=200",
    "search.seconds=0.3",
)
_EASY = ("quantize.calibration_images=64", "verify.max_drop=1", "verify.min_accuracy=0")


@dataclass(frozen=True)
class Load:
    """How callers ask.

    rows: images of a call.
    callers: those that wait for an answer at a time.
    """

    rows: int
    callers: int

    def __str__(self) -> str:
        images = "image" if self.rows == 1 else "images"
        return f"{self.rows} {images} a call, {self.callers} callers"


@dataclass(frozen=True)
class Work:
    """A network and its task.

    name: that of its recipe and of the models.
    title: of the table.
    images: makes the data of a form in a folder; raises Absent.
    bound: of --search; "" where the network cannot be trained here.
    quick: overrides of the recipe in the small form.
    """

    name: str
    title: str
    images: Callable[[Path, bool], Images]
    loads: tuple[Load, ...]
    bound: str = "drop<=1"
    quick: tuple[str, ...] = _HASTY + _EASY

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return _RECIPES / f"{self.name}.yaml"


WORKS = {
    work.name: work
    for work in (
        Work("resnet56", "ResNet-56, CIFAR-10", cifar10, (Load(1, 32), Load(16, 4))),
        Work("camvid-unet", "U-Net, CamVid 960x720", scenes, (Load(1, 16),)),
        Work("resnet50", "ResNet-50, photographs at 224", patches, (Load(1, 32),)),
        Work(
            "efficientnet-lite0",
            "EfficientNet-Lite0, photographs",
            photographs,
            (Load(1, 32),),
            bound="",
            quick=("quantize.calibration_images=32", *_EASY[1:]),
        ),
        Work("vit", "ViT, CIFAR-10", cifar10, (Load(1, 32),)),
    )
}
