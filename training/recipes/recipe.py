"""The recipe itself: its sections, and the rules between them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from serving.base.task import Measure, Task, measure_of
from serving.repository.interface import unheld
from training.recipes.compress import Distill, Prune, Quantize, Search
from training.recipes.data import (
    IMAGENET,
    NO_CROP,
    Augment,
    ClassificationData,
    Fold,
    IdentityFolderData,
    Normalization,
    SegmentationData,
    Transform,
)
from training.recipes.deliver import Export, Publish, Verify
from training.recipes.fields import Name, Strict
from training.recipes.loss import unfit
from training.recipes.model import ModelChoice
from training.recipes.remote.sources import RemoteFolderData, ShardsData
from training.recipes.tasks import TRAINED_TASKS
from training.recipes.train import Train


def _none_as_null(value: object) -> object:
    return None if value == "none" else value


class _Recipe(Strict):
    """What all recipes share.

    name: of the model that is published, and of the run's folder.
    seed: decides all that training draws: weights, the order of images, augmentation.
    train: "none" (or null) takes the network as its weights make it.
    """

    task: Task
    name: Name
    seed: int = 0
    fold: Fold | None = None
    transform: Transform
    normalization: Normalization = Normalization()
    augment: Augment = Augment()
    model: ModelChoice
    train: Annotated[Train | None, BeforeValidator(_none_as_null)]
    distill: Distill | None = None
    prune: Prune | None = None
    quantize: Quantize | None = None
    export: Export = Export()
    verify: Verify = Verify()
    publish: Publish = Publish()
    search: Search | None = None

    @property
    def single_logit(self) -> bool:
        """Whether the network answers with one logit, for a sigmoid, instead of one a class."""
        return False

    @property
    def measure(self) -> Measure:
        """The accuracy by which the network is judged."""
        return measure_of(self.task, binary=self.single_logit)

    def channels(self, classes: int) -> int:
        """Values of the network's answer, for masks a pixel, with data of so many classes."""
        return classes

    def loss_classes(self, classes: int) -> int:
        """Classes that the loss compares, with data of so many: for embeddings the identities in
        training, not the embedding size."""
        return self.channels(classes)

    @model_validator(mode="before")
    @classmethod
    def _grey_has_its_own_normalization(cls, document: Any) -> Any:
        if not isinstance(document, dict) or _channels_of(document.get("transform")) != 1:
            return document
        given = document.get("normalization", {})
        if not isinstance(given, dict):
            return document
        return {**document, "normalization": {**IMAGENET[1], **given}}

    @model_validator(mode="after")
    def _channels_agree(self) -> "_Recipe":
        channels, values = self.transform.channels, len(self.normalization.mean)
        if channels != values:
            raise ValueError(
                f"normalization: transform.channels is {channels}, so mean and std have "
                f"{'one value' if channels == 1 else 'three values'} each, got {values}; without "
                "the section they are ImageNet's"
            )
        if "channels" in self.model.options:
            raise ValueError(
                "model.options: the channels of images are not the network's alone; give "
                "transform.channels"
            )
        if "left_out" in self.model.options:
            raise ValueError("model.options: left_out: blocks are left out by prune")
        coloured = [name for name in ("saturation", "hue") if getattr(self.augment, name)]
        if channels == 1 and coloured:
            raise ValueError(
                f"augment.{coloured[0]}: changes colours, and with transform.channels: 1 there are "
                "none; brightness and contrast change grey images"
            )
        return self

    @model_validator(mode="after")
    def _mirror_images_are_whole(self) -> "_Recipe":
        padding, side = self.augment.padding_crop, min(self.transform.size)
        if padding is not None and padding.mode == "reflect" and padding.pixels >= side:
            raise ValueError(
                f"augment.padding_crop.pixels: an image mirrors less than its shorter side, "
                f"{side} pixels; got {padding.pixels}"
            )
        return self

    @model_validator(mode="after")
    def _only_squares_turn(self) -> "_Recipe":
        height, width = self.transform.size
        if self.augment.quarter_turns and height != width:
            raise ValueError(
                f"augment.quarter_turns: only square images can be turned, got {height}x{width}"
            )
        return self

    @model_validator(mode="after")
    def _batches_fit_the_plans(self) -> "_Recipe":
        plans, largest = self.export.tensorrt, self.publish.max_batch_size
        if plans is not None and plans.usual_batch is not None and plans.usual_batch > largest:
            raise ValueError(
                "export.tensorrt.usual_batch: expected at most publish.max_batch_size "
                f"({largest}), got {plans.usual_batch}"
            )
        if plans is not None and max(self.verify.batch_sizes) > largest:
            raise ValueError(
                "verify.batch_sizes: with export.tensorrt expected at most publish.max_batch_size "
                f"({largest}), beyond which a plan cannot run, got {max(self.verify.batch_sizes)}"
            )
        return self

    @model_validator(mode="after")
    def _training_fits_the_task(self) -> "_Recipe":
        for path, train in _train_sections(self):
            if reason := unfit(train.loss, self.task, single_logit=self.single_logit):
                raise ValueError(f"{path}.loss: {reason}")
            task = TRAINED_TASKS[self.task]
            if not task.class_of_image and train.sampler.name != "shuffled":
                raise ValueError(
                    f"{path}.sampler: {train.sampler.name} draws by the class of an image; in a "
                    f"{self.task} an image has many"
                )
            if not task.blends and train.mixes:
                raise ValueError(
                    f"{path}: mixup_alpha and cutmix_alpha blend the classes of whole images, "
                    "which only classification has"
                )
        return self

    @model_validator(mode="after")
    def _named_classes_are_answers(self) -> "_Recipe":
        if self.model.classes is not None and (self.task == "embedding" or self.single_logit):
            kind = "a binary segmentation" if self.single_logit else "an embedding"
            raise ValueError(f"model.classes: the answer of {kind} has no classes to name")
        return self

    @model_validator(mode="after")
    def _large_sets_are_streamed(self) -> "_Recipe":
        source = getattr(self, "data", None)
        if not isinstance(source, RemoteFolderData | ShardsData):
            return self
        if self.fold is not None:
            raise ValueError(
                f"fold: {source.source} is read as a stream, and a fold wants images in any order; "
                "name other shards for val instead, or copy the data to a folder here"
            )
        for path, train in _train_sections(self):
            if train.sampler.name != "shuffled":
                raise ValueError(
                    f"{path}.sampler: {train.sampler.name} draws images in any order from the "
                    f"whole set, and {source.source} is read as a stream; for unequal classes take "
                    "loss.class_weights: balanced"
                )
        return self

    @model_validator(mode="after")
    def _files_are_taken_as_they_are(self) -> "_Recipe":
        file = self.model.file
        if file is None:
            return self
        if self.model.holds is not None and (reason := unheld(self.task, self.model.holds)):
            raise ValueError(f"model.holds: {reason}")
        kind = "an ONNX file" if self.model.onnx is not None else "a program of torch.export"
        why = f"model: {file} is {kind}, whose layers cannot be trained"
        if self.train is not None:
            raise ValueError(f"train: expected none; {why}")
        for key in ("distill", "prune"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"{key}: {why}; take the network from model.name or model.factory for it"
                )
        if self.quantize is not None and self.quantize.qat is not None:
            raise ValueError(f"quantize.qat: {why}; mixed_precision keeps layers in floating point")
        # A grey recipe is given that default where it says nothing.
        unsaid = self.normalization == Normalization(**IMAGENET[1])
        if "normalization" in self.model_fields_set and not unsaid:
            raise ValueError("normalization: that of a file is told by model.input, mean and std")
        return self

    @model_validator(mode="after")
    def _search_knows_how_to_prune(self) -> "_Recipe":
        if self.search is not None and self.search.max_ratio > 0 and self.prune is None:
            raise ValueError(
                "search.max_ratio is above 0, so prune must be given: it says how pruned networks "
                "are fine-tuned"
            )
        return self

    @model_validator(mode="after")
    def _search_compares_images_of_one_size(self) -> "_Recipe":
        if self.search is not None and self.search.sizes and self.task == "segmentation":
            raise ValueError("search.sizes: masks of different sizes have no common accuracy")
        return self

    @model_validator(mode="after")
    def _int8_needs_calibration(self) -> "_Recipe":
        int8 = [variant for variant in self.export.variants if variant.startswith("int8")]
        if int8 and self.quantize is None:
            raise ValueError(f"export.variants holds {', '.join(int8)}, so quantize must be given")
        if self.quantize is not None and not int8:
            raise ValueError("quantize is given, but export.variants holds no int8 variant")
        return self


class ClassificationRecipe(_Recipe):
    """One class an image."""

    task: Literal["classification"]
    data: ClassificationData


class SegmentationRecipe(_Recipe):
    """One class a pixel.

    binary: the answer is the probability of the foreground, which is every class of the data but
        the first.
    """

    task: Literal["segmentation"]
    data: SegmentationData
    binary: bool = False

    @property
    def single_logit(self) -> bool:
        return self.binary

    def channels(self, classes: int) -> int:
        """As every recipe has it: one of a binary segmentation."""
        return 1 if self.binary else classes

    @model_validator(mode="after")
    def _answers_cover_the_image(self) -> "SegmentationRecipe":
        if self.transform.crop is not None:
            raise ValueError(f"transform.crop: {NO_CROP}")
        return self

    @model_validator(mode="after")
    def _masks_can_follow(self) -> "SegmentationRecipe":
        if self.augment.policy is not None:
            raise ValueError(
                f"augment.policy: {self.augment.policy.name} moves images without their masks; "
                "choose single changes such as rotate, scale and brightness"
            )
        padding = self.augment.padding_crop
        if padding is not None and padding.mode == "constant":
            raise ValueError(
                "augment.padding_crop.mode: constant adds pixels that have no class; "
                "choose edge or reflect"
            )
        return self


class EmbeddingRecipe(_Recipe):
    """A point on the unit sphere for each image; points of the same person are close to each other
    (FaceNet, arXiv 1503.03832). Every classification network can be trained for it.

    embedding_size: coordinates of a point.
    """

    task: Literal["embedding"]
    data: IdentityFolderData
    embedding_size: Annotated[int, Field(ge=2)] = 128

    def channels(self, classes: int) -> int:
        """As every recipe has it: the length of an embedding, whatever the classes."""
        return self.embedding_size

    def loss_classes(self, classes: int) -> int:
        """As every recipe has it."""
        return classes

    @model_validator(mode="after")
    def _people_are_not_folded(self) -> "EmbeddingRecipe":
        if self.fold is not None:
            raise ValueError(
                "fold: parts are cut by image, which would put a person into training and "
                "validation; name other people by data.val_identities instead"
            )
        return self


Recipe = ClassificationRecipe | SegmentationRecipe | EmbeddingRecipe


def _channels_of(transform: Any) -> Any:
    if isinstance(transform, dict):
        return transform.get("channels")
    return getattr(transform, "channels", None)


def _train_sections(recipe: _Recipe) -> list[tuple[str, Train]]:
    sections = [("train", recipe.train)] if recipe.train is not None else []
    if recipe.distill is not None:
        sections.append(("distill.train", recipe.distill.train))
    if recipe.prune is not None:
        sections.append(("prune.train", recipe.prune.train))
    if recipe.quantize is not None and recipe.quantize.qat is not None:
        sections.append(("quantize.qat.train", recipe.quantize.qat.train))
    return sections
