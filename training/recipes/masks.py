"""Sources of images with masks or outlines, and the rules by which masks are read."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.recipes.fields import FolderData, Strict

Names = Annotated[tuple[str, ...], Field(max_length=256)]


class MaskRules(Strict):
    """What the pixels of a mask stand for.

    classes: names; the value of a grey or palette mask is a place in the list, from 0. With
        `colours`, the classes of the table that are learnt, in this order; its others are ignored.
        None: from `values`, from `colours`, or from a file in the root: classes.txt, or a table
        class_dict.csv, label_colors.txt or labelmap.txt. Black and white masks need none.
    colours: a table of names and colours: one of ours (ade20k, camvid, camvid-11, cityscapes,
        cityscapes-train-ids, voc), or a .csv, .json, .yaml or .txt file of your own.
    values: the class of each value from 0 to 65535, or of a range "1000..1999"; null for pixels
        that are ignored. 16-bit masks are read by it.
    ignore: classes whose pixels count neither in the loss nor in any measure.
    ignore_index: value of grey or palette masks that is ignored. A last line of classes.txt at that
        index names such pixels and is no class. None: 255; but where two classes are named and the
        masks hold 0 and 255 alone, 255 is the second class.
    threshold: of two classes, values from this one on are the second; for masks with soft edges and
        for those in JPEG.
    tolerance: a colour or value may differ from a named one by so much in each channel, and is
        then the nearest; for masks in JPEG.
    palette: what palette images are read by. None: their indices, unless `colours` is a table that
        states no values.
    unnamed: "ignore" takes values and colours that nobody named as pixels that are ignored.
    """

    classes: Names | None = None
    colours: str | None = None
    values: dict[int | str, str | None] | None = None
    ignore: Names = ()
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None
    threshold: Annotated[int, Field(ge=1, le=65535)] | None = None
    tolerance: Annotated[int, Field(ge=0, le=64)] = 0
    palette: Literal["indices", "colours"] | None = None
    unnamed: Literal["error", "ignore"] = "error"

    @model_validator(mode="after")
    def _one_way_to_read(self) -> "MaskRules":
        given = [
            key for key in ("colours", "values", "threshold") if getattr(self, key) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: masks are read by {given[0]} already; give one of them")
        if self.values is not None and self.classes is not None:
            raise ValueError("classes: values names the classes already; give one of them")
        if self.threshold is not None and self.classes is not None and len(self.classes) != 2:
            raise ValueError(
                f"threshold: it tells two classes apart; classes names {len(self.classes)}"
            )
        return self


class MaskFolderData(FolderData, MaskRules):
    """A folder of images and a folder of masks: images/NAME.jpg with masks/NAME.png.

    images: folder of the images in `root` or in each split; "." is the folder itself. None: the
        usual names (images, img, JPEGImages, leftImg8bit, ...).
    masks: folder of the masks likewise. None: the usual names (masks, labels, annotations,
        SegmentationClass, gtFine, ...), also train_labels or train_masks beside train.
    mask_suffix: end of the masks' names, before the dot, such as _mask or _gtFine_labelIds. None:
        the usual ones are tried.
    image_suffix: end of the images' names, before the dot, where it differs. None: the usual ones
        are tried.
    """

    source: Literal["mask_folder"]
    images: str | None = None
    masks: str | None = None
    mask_suffix: str | None = None
    image_suffix: str | None = None


class VocData(FolderData, MaskRules):
    """JPEGImages/NAME.jpg, SegmentationClass/NAME.png, and lists of the splits' names in
    ImageSets/Segmentation/train.txt, val.txt, test.txt (Everingham et al., IJCV 2010).

    Classes are those of labelmap.txt in the root, as CVAT writes it, else those of VOC. A list none
    of whose images has a mask is passed over; where there is no other test list, val is test.

    sets: folder of the lists.
    """

    source: Literal["voc"]
    sets: str = "ImageSets/Segmentation"


class CocoData(FolderData):
    """COCO's JSON: polygons and run lengths of "annotations" with "categories", of things and
    stuff. The first class is background; the others are the categories in the order of their ids.
    Small objects cover large ones; crowds are ignored.

    annotations: the file, or one each split. None: those in `root`, annotations/ and the splits'
        folders (instances_train2017.json, train/_annotations.coco.json).
    images: folder of the images, or one each split. None: the first of the file's own folder, the
        split's, images/ and `root` that holds them.
    classes: categories that are learnt, in this order; the others are background. None: all.
    ignore: categories whose pixels count nowhere.
    """

    source: Literal["coco"]
    annotations: str | dict[Literal["train", "val", "test"], str] | None = None
    images: str | dict[Literal["train", "val", "test"], str] | None = None
    classes: Names | None = None
    ignore: Names = ()


class LabelmeData(FolderData):
    """labelme's JSON, one file an image, with polygons, rectangles and circles; later shapes cover
    earlier ones. The first class is background, _background_ too; __ignore__ is ignored.

    classes: labels that are learnt, in this order; the others are background. None: those of
        labels.txt in the root, else all in ASCII order.
    ignore: labels whose pixels count nowhere.
    """

    source: Literal["labelme"]
    classes: Names | None = None
    ignore: Names = ()
