"""Each layout of labelled images gets a recipe whose source reads it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.pipeline.initial import folders
from tests.training.pipeline.initial.conftest import Init
from training.data import load_source
from training.errors import DataError, RecipeError

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car",
    "pedestrian", "bicyclist",
)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "source", "classes"),
    [
        (folders.class_folders, "image_folder", ("blue", "green", "red")),
        (folders.splits, "image_folder", ("blue", "green", "red")),
        (folders.wrapped, "image_folder", ("blue", "green", "red")),
        (folders.metadata, "image_folder", ("blue", "green", "red")),
        (folders.csv_table, "table", ("blue", "green", "red")),
        (folders.json_lines, "table", ("blue", "green", "red")),
        (folders.parquet, "table", ("blue", "green", "red")),
        (folders.masks, "mask_folder", ("background", "foreground")),
        (folders.suffixed_masks, "mask_folder", ("background", "foreground")),
        (folders.soft_masks, "mask_folder", ("background", "foreground")),
        (folders.unnamed_masks, "mask_folder", ("background", "class_1", "class_2")),
        (folders.listed_colours, "mask_folder", ("background", "cat", "dog")),
        (folders.voc_colours, "mask_folder", None),
        (folders.sibling_colours, "mask_folder", CAMVID),
        (folders.voc, "voc", None),
        (folders.coco, "coco", ("background", "square")),
        (folders.labelme, "labelme", ("background", "triangle")),
    ],
)
def test_a_layout_gets_a_recipe_that_reads_it(
    make: Callable[[Path], None], source: str, classes: tuple[str, ...] | None, init: Init
) -> None:
    make(Path("things"))
    outcome, recipe = init("things")
    assert recipe.data.source == source
    assert recipe.name == "things"
    found = load_source(recipe)
    if classes is not None:
        assert found.classes == classes
    segmentation = source in ("mask_folder", "voc", "coco", "labelme")
    assert recipe.task == ("segmentation" if segmentation else "classification")
    assert getattr(recipe, "binary", False) == (segmentation and len(found.classes) == 2)
    assert outcome.commands[0] == "convserve build things.yaml"


def test_made_up_names_are_said_to_be_so(init: Init) -> None:
    folders.unnamed_masks(Path("things"))
    outcome, _ = init("things")
    assert any("class_1 and the like are made up" in line for line in outcome.warnings)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root.mkdir(), "no images; the folder is empty"),
        (lambda root: _empty(root), r"no images; got 1 \.txt; no image in train/cat/, train/dog/$"),
        (lambda root: None, "no such folder"),
        (lambda root: root.write_text("x"), "is not a folder"),
        (
            lambda root: folders.class_folders(root / "x") or _only(root / "x", "red"),
            "expected a folder of images for each class",
        ),
        (
            lambda root: folders.class_folders(root) or _emptied(root, "red"),
            r"one folder, red/, are one class; no image in blue/, green/; expected a folder of",
        ),
        (lambda root: _loose(root), "nothing that says the class of each"),
        (folders.unusual_metadata, "its columns are file_name, kind; data.label_column says which"),
        (folders.own_colours, "class_dict.csv with the columns name, r, g, b"),
    ],
)
def test_a_folder_without_labels_is_told_what_is_expected(
    make: Callable[[Path], object], said: str, init: Init
) -> None:
    make(Path("things"))
    with pytest.raises(DataError, match=said):
        init("things")
    assert not list(Path().glob("*.yaml"))


def _only(root: Path, kept: str) -> None:
    for folder in root.iterdir():
        if folder.name != kept:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def _empty(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
    (root / "readme.txt").touch()


def _emptied(root: Path, kept: str) -> None:
    for file in root.glob("*/*"):
        if file.parent.name != kept:
            file.unlink()


def _loose(root: Path) -> None:
    root.mkdir()
    folders.picture(folders.RED, 0).save(root / "a.png")


def test_folders_that_may_be_people_need_a_word(init: Init) -> None:
    folders.people(Path("things"))
    with pytest.raises(RecipeError, match="--task classification or --task embedding"):
        init("things")
    _, recipe = init("things", task="embedding")
    assert recipe.data.source == "identity_folder"
    assert load_source(recipe).open_set
    _, recipe = init("things", task="classification", force=True)
    assert recipe.data.source == "image_folder"


def test_a_task_that_labels_cannot_teach_is_refused(init: Init) -> None:
    folders.masks(Path("things"))
    with pytest.raises(DataError, match="expected a folder of images for each person"):
        init("things", task="embedding")


def test_files_that_cannot_be_decoded_are_named_in_a_line_each(init: Init) -> None:
    folders.class_folders(Path("things"))
    Path("things/red/broken.png").write_bytes(b"\x89PNG nothing")
    Path("things/blue/empty.jpg").touch()
    outcome, _ = init("things")
    told = [line for line in outcome.warnings if "the build refuses it" in line]
    assert sorted(line.split(":")[0] for line in told) == ["blue/empty.jpg", "red/broken.png"]


def test_links_that_lead_back_are_passed_over(init: Init) -> None:
    folders.class_folders(Path("things"))
    Path("things/red/again").symlink_to(Path("things").absolute())
    Path("things/itself").symlink_to("itself")
    outcome, recipe = init("things")
    assert "36 images in 3 classes" in outcome.found
    assert load_source(recipe).classes == ("blue", "green", "red")
