"""From facts, answers and the chosen candidate to a recipe, with the reason of each key."""

from collections.abc import Mapping
from typing import Any

from serving.base.text import counted
from training.pipeline.initial.answers import Answers
from training.pipeline.initial.document import Said, Section
from training.pipeline.initial.drafts import SHOWN, Draft
from training.pipeline.initial.found.facts import Counts, Labelled, Look
from training.pipeline.initial.found.network_file import ENDINGS, NetworkFile
from training.recipes.data import IMAGENET
from training.recipes.model import TIMM

# Epochs from which on a network that begins from chance has learnt its few images by heart, so that
# it gains from larger changes of them. In fewer epochs these cost accuracy. ResNet-20 on 1,440
# images of CIFAR-10: cutmix took 7 points off in 27 epochs; in 200 it had 66.6 % with mixup, 66.4 %
# with mixup and cutmix, 69.6 % with TrivialAugment.
_MANY_EPOCHS = 100
# The rule of three: so many test images prove a drop of one point.
_PROVING = 300


def compose(
    name: str,
    labelled: Labelled,
    look: Look,
    answers: Answers,
    draft: Draft,
    epochs: int,
) -> Section:
    """The recipe, every key of which says why it is so."""
    images = labelled.images
    binary = answers.task == "segmentation" and len(labelled.classes) == 2
    return {
        **_beginning(name, labelled, answers, binary=binary),
        "transform": Said(_transform(look, draft), _size_reason(answers, look, draft)),
        **_normalization(look, draft),
        "augment": Said(_augment(answers, look, draft, epochs), _AUGMENTED),
        "model": Said(_model(draft), _network_reason(draft)),
        "train": _train(answers, look, draft, epochs, images, binary=binary),
        **_delivery(images),
    }


def compose_file(
    name: str, labelled: Labelled, look: Look, answers: Answers, network: NetworkFile
) -> Section:
    """The recipe for a trained network in a file, every key of which says why it is so."""
    binary = answers.task == "segmentation" and len(labelled.classes) == 2
    size = answers.side or network.size or _same(look)
    transform = {"resize": Said(list(size))}
    if not look.one_size and size[0] == size[1]:
        transform = {"resize": Said(round(size[0] / SHOWN)), "crop": Said(list(size))}
    if network.channels == 1:
        transform["channels"] = Said(1)
    why = "The file takes images of this size" if network.size else "The file takes any size"
    return {
        **_beginning(name, labelled, answers, binary=binary),
        "transform": Said(transform, f"{why}. The server does exactly the same."),
        "model": Said(
            {ENDINGS[network.path.suffix.lower()]: Said(str(network.path))},
            "A trained network as a file. How it takes an image (order of colours, range, mean and "
            "std) is found by trying the usual ways on validation images, and shown; model.input "
            "says it where the guess is wrong.",
        ),
        "train": Said("none", "The network is taken as it is: compressed, verified, published."),
        **_delivery(images=labelled.images),
    }


def _same(look: Look) -> tuple[int, int]:
    """The images' own size, up to that of ImageNet."""
    shrink = max(1.0, look.side / 224)
    return round(look.height / shrink), round(look.width / shrink)


def _beginning(name: str, labelled: Labelled, answers: Answers, *, binary: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": Said(name, "The model is published and asked for under this name."),
        "task": Said(answers.task, _TASKS[answers.task]),
    }
    if binary:
        found["binary"] = Said(
            True,
            f"Two classes: the answer is the probability of the second, {labelled.classes[1]!r}.",
        )
    found["seed"] = Said(1, "Another seed draws other first weights, batches and changes.")
    found["data"] = Said(_data(labelled), _told(labelled, labelled.images))
    return found


def _delivery(images: Counts) -> dict[str, Any]:
    return {
        "quantize": Said(
            {"calibration_images": Said(min(256, images.train))},
            "INT8 files are made from the trained network; the ranges of its values are measured "
            "on these images. A layer that would cost too much accuracy stays in floating point.",
        ),
        "export": Said(
            {"variants": Said(["fp32", "bf16", "int8-s8", "int8-u8"])},
            "int8-s8 suits OpenVINO and TensorRT, int8-u8 ONNX Runtime; bf16 is the FP32 file in "
            "that precision. The server takes the fastest that passed.",
        ),
        "verify": Said(*_verify(images)),
        "publish": {
            "max_batch_size": Said(32, "Calls that the server may run together."),
        },
    }


_TASKS = {
    "classification": "One class for each image.",
    "segmentation": "One class for each pixel.",
    "embedding": "A point for each image: pictures of one person, or part, lie close together.",
}
_AUGMENTED = "Random changes to training images, so that no two epochs show the same."


def _data(labelled: Labelled) -> Section:
    return {key: Said(value) for key, value in labelled.data.items()}


def _told(labelled: Labelled, images: Counts) -> str:
    cut = [split for split in ("val", "test") if split not in labelled.given]
    words = f"{images.all:,} images: {labelled.how}."
    if cut:
        words += (
            f" {' and '.join(cut)} {'is' if len(cut) == 1 else 'are'} cut from train, by "
            "split_seed (0)"
        )
        words += f": about {images.train:,} train, {images.val:,} validate, {images.test:,} test."
    return words + " Paths are relative to the folder in which the build is started."


def _transform(look: Look, draft: Draft) -> Section:
    height, width = draft.size
    resize = draft.resize if isinstance(draft.resize, int) else list(draft.resize)
    found: dict[str, Said] = {"resize": Said(resize)}
    if isinstance(draft.resize, int):
        found["crop"] = Said([height, width])
    found["filter"] = Said("area")
    if _sees_grey(look, draft):
        found["channels"] = Said(1, "No image has a colour: the network sees one channel.")
    return found


def _sees_grey(look: Look, draft: Draft) -> bool:
    """Whether the network sees one channel. First weights are those of three."""
    return look.grey and draft.weights is None


def _size_reason(answers: Answers, look: Look, draft: Draft) -> str:
    height, width = draft.size
    shape = "all" if look.one_size else "most"
    words = f"The images are {look.width}x{look.height} ({shape}, width x height)"
    if answers.side is not None:
        words += f"; the network sees {width}x{height}, as was asked for."
    elif look.detail < look.side:
        words += (
            f", but show no more than {look.detail} pixels a side would; the network sees "
            f"{width}x{height}."
        )
    elif min(height, width) > look.side:
        words += f"; they are enlarged to {width}x{height}, for which the first weights were made."
    else:
        words += f"; the network sees {width}x{height}, for which there is time enough to train."
    if isinstance(draft.resize, int):
        words += " The centre is cut out."
    return words + " The server does exactly the same."


def _normalization(look: Look, draft: Draft) -> dict[str, Any]:
    if draft.network.startswith(TIMM):
        # timm says itself which its networks were trained with.
        return {}
    if draft.weights is not None:
        values = {key: Said(list(numbers)) for key, numbers in IMAGENET[3].items()}
        why = "ImageNet's, with which the first weights were trained; inside the exported graph."
        return {"normalization": Said(values, why)}
    shown = slice(1 if _sees_grey(look, draft) else 3)
    values = {"mean": Said(list(look.mean[shown])), "std": Said(list(look.std[shown]))}
    why = "Of these images, measured on a sample; inside the exported graph."
    return {"normalization": Said(values, why)}


def _learns_by_heart(answers: Answers, draft: Draft, epochs: int) -> bool:
    scratch = draft.weights is None
    return answers.task == "classification" and scratch and epochs >= _MANY_EPOCHS


def _suits_policy(answers: Answers, look: Look, draft: Draft) -> bool:
    """Whether TrivialAugment's changes leave an image what its label says: it turns images by up to
    135 degrees, and changes colours."""
    return answers.mirrors and not _sees_grey(look, draft)


def _augment(answers: Answers, look: Look, draft: Draft, epochs: int) -> Section:
    found: dict[str, Any] = {}
    if _learns_by_heart(answers, draft, epochs) and _suits_policy(answers, look, draft):
        found["policy"] = Said(
            {"name": "trivial_augment"}, "Few images are not learnt by heart with it."
        )
    side = min(draft.size)
    if answers.mirrors:
        found["flip"] = Said(True, "A mirrored image is still what its label says.")
    else:
        found["flip"] = Said(False, "A mirrored image would be something else.")
    if answers.task == "segmentation":
        found |= {"scale": Said(0.2), "rotate": Said(5)}
    elif draft.weights is not None or side > 64:
        area = [0.5, 1.0] if answers.mirrors else [0.8, 1.0]
        found["random_resized_crop"] = Said({"area": area}, "A part of the image is shown larger.")
    elif answers.mirrors:
        found["padding_crop"] = Said(
            {"pixels": max(2, side // 8), "mode": "reflect"}, "The image is moved by some pixels."
        )
    else:
        found |= {"shift": Said(max(1, side // 10)), "rotate": Said(10), "scale": Said(0.1)}
    if "policy" not in found:
        found |= {"brightness": Said(0.15), "contrast": Said(0.15)}
    return found


def _model(draft: Draft) -> Section:
    found: dict[str, Any] = {"name": Said(draft.network)}
    if draft.width is not None:
        found["options"] = Said({"width": draft.width}, "Share of VGG-16's channels.")
    if draft.weights is not None:
        found["pretrained"] = Said(draft.weights.source, f"First weights: {draft.weights.how}.")
    return found


def _network_reason(draft: Draft) -> str:
    if draft.weights is not None:
        return "Fine-tuned: it begins with weights from other images and needs few epochs."
    return (
        "From scratch: no first weights were found here, so that it learns from these images "
        "alone. With weights (model.pretrained: a file, or DEFAULT for torchvision's) a few "
        "hundred images go further."
    )


def _train(
    answers: Answers, look: Look, draft: Draft, epochs: int, images: Counts, *, binary: bool
) -> Section:
    found: dict[str, Any] = {
        "epochs": Said(
            epochs,
            f"As many as fit into {counted(answers.minutes, 'minute')} with all other stages on "
            "this machine"
            if epochs < 2 * draft.enough
            else "More would gain little",
        ),
        "batch_size": Said(
            draft.batch_size, f"{counted(-(-images.train // draft.batch_size), 'step')} an epoch."
        ),
    }
    if _learns_by_heart(answers, draft, epochs) and not _suits_policy(answers, look, draft):
        found["mixup_alpha"] = Said(0.2, "Images are blended: few of them are not learnt by heart.")
    found["loss"] = Said(*_loss(answers, binary=binary))
    found["optimizer"] = _optimizer(answers, draft)
    found["schedule"] = Said(
        {"name": "one_cycle", "warmup": 0.25},
        "The rate rises for a quarter of the steps and falls to nearly 0.",
    )
    found["keep"] = Said("last", "The weights at the end of the cycle.")
    return found


def _loss(answers: Answers, *, binary: bool) -> tuple[Any, str]:
    if answers.task == "classification":
        return (
            {"name": "cross_entropy", "label_smoothing": 0.1},
            "A tenth of each target is spread over all classes, against overconfidence.",
        )
    if answers.task == "embedding":
        return {"name": "arcface", "margin": 0.2, "scale": 16}, "Tells people apart by angles."
    pixels = "bce" if binary else "cross_entropy"
    return (
        {"name": "sum", "terms": [{"loss": {"name": pixels}}, {"loss": {"name": "dice"}}]},
        "Pixels one by one, and regions, so that small objects count as much as large ones.",
    )


def _optimizer(answers: Answers, draft: Draft) -> Mapping[str, Any]:
    if answers.task == "embedding":
        return {"name": "adamw", "lr": 0.002, "weight_decay": 0.05}
    if answers.task == "segmentation":
        rate = {"name": "adamw", "lr": 0.004, "weight_decay": 0.01}
        return rate if draft.weights is None else {**rate, "lr": 0.001, "backbone_lr_factor": 0.3}
    sgd = {"name": "sgd", "momentum": 0.9, "nesterov": True}
    if draft.weights is not None:
        return {**sgd, "lr": 0.01, "weight_decay": 0.0001}
    return {**sgd, "lr": round(0.1 * draft.batch_size / 64, 3), "weight_decay": 0.0005}


def _verify(images: Counts) -> tuple[Section, str]:
    drop = 0.01 if images.test >= _PROVING else round(3 / max(3, images.test), 3)
    why = (
        "The gate: a variant may lose so much accuracy (0.01 is one point) against the trained "
        "network."
    )
    if drop > 0.01:
        why += f" {images.test} test images cannot prove less."
    return {"max_drop": Said(drop), "batch_sizes": Said([1, 8, 32])}, why
