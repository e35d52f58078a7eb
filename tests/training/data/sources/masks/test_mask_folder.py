"""Folders of images and masks."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.images.masks.tables import read_table
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks.mask_folder import mask_folder
from training.errors import DataError
from training.recipes.masks import MaskFolderData


def load(root: Path, **keys: Any) -> Dataset:
    data = MaskFolderData.model_validate({"source": "mask_folder", "root": root, **keys})
    return mask_folder(data, EvalTransform(resize=(32, 32)))


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(shapes_root, tmp_path / "shapes"))


def test_masks_are_resized_without_new_values(shapes_root: Path) -> None:
    data = load(shapes_root)
    assert data.classes == ("background", "red", "blue")
    assert data.ignore_index == 255
    assert (len(data.train), len(data.val), len(data.test)) == (28, 4, 8)
    images, masks = data.train.batch(range(28))
    assert images.shape == (28, 32, 32, 3)
    assert masks.shape == (28, 32, 32)
    assert masks.dtype == np.uint8
    assert np.unique(masks).tolist() == [0, 1, 2, 255]


def test_value_beyond_the_classes_names_file_and_value(root: Path) -> None:
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: expected classes 0 to 2 or 255.*got \[7\]"):
        load(root)


def test_colour_mask_without_a_table_is_refused(root: Path) -> None:
    Image.fromarray(np.full((40, 40, 3), (9, 0, 0), np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: is in colours, and nothing names them"):
        load(root)


def test_mask_of_another_size_is_refused(root: Path) -> None:
    Image.fromarray(np.zeros((40, 39), np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match="the image is 40x40, its mask 39x40"):
        load(root)


def test_missing_mask_is_named(root: Path) -> None:
    (root / "masks" / "05.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 05\.png \(1 in all\)"):
        load(root)


def test_truncated_mask_and_image_are_named(root: Path) -> None:
    for kind in ("masks", "images"):
        file = root / kind / "05.png"
        file.write_bytes(file.read_bytes()[:60])
        with pytest.raises(DataError, match=r"images/05\.png"):
            load(root)


def test_last_line_at_the_ignored_index_names_what_is_ignored(root: Path) -> None:
    (root / "classes.txt").write_text("background\nred\nblue\nunlabelled\n")
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file)).copy()
        mask[mask == 255] = 3
        Image.fromarray(mask).save(file)
    data = load(root, ignore_index=3)
    assert data.classes == ("background", "red", "blue")
    assert 3 in data.train.batch([0])[1]


def test_ignored_index_that_is_a_class_too_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.txt: ignore_index 1 is also .* 'red'"):
        load(root, ignore_index=1)


def test_validation_folder_can_be_what_is_evaluated_on(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).mkdir()
    for kind in ("images", "masks"):
        (root / kind).rename(root / "train" / kind)
        (root / "val" / kind).mkdir()
        for file in sorted((root / "train" / kind).iterdir())[:10]:
            file.rename(root / "val" / kind / file.name)
    data = load(root, ignore_index=255, test="val")
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 10)
    assert all(name.startswith("val/") for name in data.test.names)
    assert "evaluated on val, val cut from train" in data.description


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("classes.txt", "one class a line"), ("masks", "expected images/ and")],
)
def test_incomplete_folder_is_refused(root: Path, missing: str, expected: str) -> None:
    path = root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=expected):
        load(root)


def two_classes(root: Path, values: tuple[int, int], name: str = "classes.txt") -> Path:
    """The same masks with two classes, by values for the background and the foreground."""
    (root / name).write_text("background\nperson\n")
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file))
        Image.fromarray(np.where(mask == 1, *reversed(values)).astype(np.uint8)).save(file)
    return root


def test_white_is_the_second_of_two_classes_in_masks_of_black_and_white(root: Path) -> None:
    data = load(two_classes(root, (0, 255)))
    assert data.classes == ("background", "person")
    assert data.ignore_index is None
    assert data.notes == ("masks hold 0 and 255 alone: 255 is 'person'",)
    assert np.unique(data.train.batch(range(len(data.train)))[1]).tolist() == [0, 1]


def test_white_is_ignored_where_masks_hold_the_second_class(root: Path) -> None:
    two_classes(root, (0, 1))
    Image.fromarray(np.full((40, 40), 255, np.uint8)).save(root / "masks" / "05.png")
    data = load(root)
    assert data.ignore_index == 255
    assert not data.notes


def test_white_stays_ignored_where_the_recipe_says_so(root: Path) -> None:
    data = load(two_classes(root, (0, 255)), ignore_index=255)
    assert data.ignore_index == 255
    assert np.unique(data.train.batch(range(len(data.train)))[1]).tolist() == [0, 255]


def test_third_value_beside_black_and_white_is_refused(root: Path) -> None:
    two_classes(root, (0, 255))
    Image.fromarray(np.full((40, 40), 128, np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: expected classes 0 to 1 or 255 .* got \[128\]"):
        load(root)


def test_masks_of_one_bit_are_read(root: Path) -> None:
    for file in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(file)) == 1).save(file)
    (root / "classes.txt").write_text("background\nperson\n")
    data = load(root)
    assert np.unique(data.train.batch(range(len(data.train)))[1]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"background\n\nred\nblue\n", "classes.txt: line 2: empty"),
        (b"background\nred\nred \n", "classes.txt: line 3: 'red' is line 2 too"),
        (
            "background\nrot\ngrün\n".encode("latin-1"),
            "classes.txt: line 3: byte 0xfc is not UTF-8",
        ),
        ("background\nred\nblue\n".encode("utf-16"), "classes.txt: line 1: UTF-16"),
    ],
)
def test_list_of_classes_that_cannot_be_meant_is_refused(
    root: Path, text: bytes, said: str
) -> None:
    (root / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match=said):
        load(root)


def test_byte_order_mark_is_no_part_of_the_first_class(root: Path) -> None:
    (root / "classes.txt").write_text("background\nred\nblue\n\n", encoding="utf-8-sig")
    assert load(root).classes == ("background", "red", "blue")


def test_entries_of_tools_need_no_mask(root: Path) -> None:
    for name in ("._00.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/00.png", "@eaDir/0.jpg"):
        for kind in ("images", "masks"):
            (root / kind / name).parent.mkdir(exist_ok=True)
            (root / kind / name).write_bytes(b"junk")
    (root / "images" / "a.tif").touch()
    (root / ".ipynb_checkpoints").mkdir()
    data = load(root)
    assert len(data.train) + len(data.val) + len(data.test) == 40
    assert data.left_out == {".tif": 1}


@pytest.mark.parametrize("inner", [False, True], ids=["Train/images", "images/Train"])
def test_split_folders_have_the_names_that_people_give_them(root: Path, inner: bool) -> None:
    splits = ("Train", "Valid", "Test")
    for kind in ("images", "masks"):
        files = sorted((root / kind).iterdir())
        for number, split in enumerate(splits):
            target = root / kind / split if inner else root / split / kind
            target.mkdir(parents=True)
            for file in files[number::3]:
                file.rename(target / file.name)
        if not inner:
            (root / kind).rmdir()
    data = load(root)
    assert (len(data.train), len(data.val), len(data.test)) == (14, 13, 13)
    assert "splits as given" in data.description
    assert np.unique(data.test.batch([0, 1])[1]).tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train_set", "test_set"), "test_set/, train_set/ look like splits"),
        (("val", "test"), "got test/, val/; expected a folder train beside them"),
    ],
)
def test_splits_in_images_are_not_mixed_in_silence(
    root: Path, names: tuple[str, str], said: str
) -> None:
    for kind in ("images", "masks"):
        move_into(root / kind, names)
    with pytest.raises(DataError, match=said):
        load(root)


def test_folder_beside_the_splits_in_images_is_left_out(root: Path) -> None:
    for kind in ("images", "masks"):
        move_into(root / kind, ("train", "test", "extra", "more"))
    data = load(root)
    assert len(data.test) == 10
    assert data.left_out == {"in extra/": 10, "in more/": 10}


def move_into(folder: Path, names: tuple[str, ...]) -> None:
    """Deals the files of a folder to folders in it."""
    files = sorted(folder.iterdir())
    for number, name in enumerate(names):
        (folder / name).mkdir()
        for file in files[number :: len(names)]:
            file.rename(folder / name / file.name)


def binary_pairs(root: Path, ending: str = ".png") -> Path:
    """Twenty grey pictures, each with a bright square, and masks of it in black and white with soft
    edges where the ending is a photograph's."""
    for kind in ("imgs", "labels"):
        (root / kind).mkdir(parents=True)
    for index in range(20):
        mask = np.zeros((40, 40), np.uint8)
        mask[5 + index % 9 : 25, 8:30] = 255
        Image.fromarray(mask // 2 + 60).convert("RGB").save(root / "imgs" / f"{index:02}.jpg")
        Image.fromarray(mask).save(root / "labels" / f"{index:02}_mask{ending}")
    return root


def all_of(data: Dataset) -> dict[str, np.ndarray]:
    """The masks of all splits by their images' names."""
    found: dict[str, np.ndarray] = {}
    for split in (data.train, data.val, data.test):
        masks = split.batch(range(len(split)))[1]
        found |= dict(zip(split.names, masks, strict=True))
    return found


def test_pairs_in_black_and_white_need_nothing_but_their_folder(tmp_path: Path) -> None:
    data = load(binary_pairs(tmp_path / "d"))
    assert data.classes == ("background", "foreground")
    assert data.notes == ("masks hold 0 and 255 alone: 255 is 'foreground'",)
    assert "imgs/NAME.*, labels/NAME_mask.*" in data.description
    assert np.unique(data.train.batch([0])[1]).tolist() == [0, 1]


def test_masks_in_jpeg_ask_for_a_threshold_and_are_told_apart_by_it(tmp_path: Path) -> None:
    lossless = all_of(load(binary_pairs(tmp_path / "d")))
    root = binary_pairs(tmp_path / "d2", ".jpg")
    with pytest.raises(DataError, match="or the key classes, values or colours"):
        load(root)
    with pytest.raises(DataError) as raised:
        load(root, classes=["background", "person"])
    told = str(raised.value)
    assert "masks hold more than 5 values that nobody named (20 files, first labels/00_" in told
    assert "masks with soft edges need a threshold, such as 128" in told
    data = load(root, threshold=128)
    assert data.notes == ("values of masks from 128 on are 'foreground', lower ones 'background'",)
    for name, mask in all_of(data).items():
        assert (mask == lossless[name]).mean() > 0.99


def test_values_that_nobody_named_are_counted_with_the_first_file(root: Path) -> None:
    for name, value in (("05", 7), ("09", 7), ("11", 9)):
        mask = np.zeros((40, 40), np.uint8)
        mask[0, :] = value
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    with pytest.raises(DataError) as raised:
        load(root)
    told = str(raised.value)
    assert "masks hold 7, which nobody named (2 files, first masks/05.png); " in told
    assert "masks hold 9, which nobody named (1 file, first masks/11.png); 3 of 40 files" in told
    assert "got [7]; unnamed: ignore goes on without these pixels" in told
    data = load(root, unnamed="ignore")
    assert data.remarks.lines()[0] == (
        "masks hold 7, which nobody named (2 files, first masks/05.png)"
    )
    assert all_of(data)["images/05.png"][0, 0] == 255


def test_colours_give_the_same_classes_as_values(root: Path, shapes_root: Path) -> None:
    colours = {0: (10, 20, 30), 1: (200, 0, 0), 2: (0, 0, 200), 255: (1, 1, 1)}
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file))
        painted = np.zeros((*mask.shape, 3), np.uint8)
        for value, colour in colours.items():
            painted[mask == value] = colour
        Image.fromarray(painted).save(file)
    (root / "classes.txt").unlink()
    (root / "my.csv").write_text(
        "name,r,g,b,ignored\nbackground,10,20,30,\nred,200,0,0,\nblue,0,0,200,\nedge,1,1,1,yes\n"
    )
    data, values = load(root, colours="my.csv"), load(shapes_root)
    assert data.classes == values.classes
    for name, mask in all_of(values).items():
        assert np.array_equal(all_of(data)[name], mask)


def test_grey_images_keep_their_masks(tmp_path: Path) -> None:
    document = {"source": "mask_folder", "root": binary_pairs(tmp_path / "d")}
    grey = EvalTransform(resize=(32, 32), channels=1)
    data = mask_folder(MaskFolderData.model_validate(document), grey)
    images, masks = data.train.batch([0, 1])
    assert (images.shape, masks.shape) == ((2, 32, 32, 1), (2, 32, 32))


def test_ids_of_16_bits_become_classes(root: Path, shapes_root: Path) -> None:
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file)).astype(np.uint16)
        Image.fromarray(np.where(mask == 255, 65535, mask * 1000).astype(np.uint16)).save(file)
    values = {0: "background", 1000: "red", "2000..2999": "blue", 65535: None}
    data = load(root, values=values)
    assert data.classes == ("background", "red", "blue")
    expected = all_of(load(shapes_root))
    for name, mask in all_of(data).items():
        assert np.array_equal(mask, expected[name])


def test_masks_of_another_size_are_scaled_and_counted(root: Path) -> None:
    file = root / "masks" / "05.png"
    Image.open(file).resize((121, 120), Image.Resampling.NEAREST).save(file)
    assert load(root).remarks.lines()[0] == (
        "masks of another size than their images, scaled to it (1 file, first images/05.png)"
    )


def test_labels_beside_the_splits_are_not_left_out(tmp_path: Path) -> None:
    for split in ("train", "test"):
        binary_pairs(tmp_path / split)
        (tmp_path / split / "labels").rename(tmp_path / f"{split}_labels")
        for file in (tmp_path / split / "imgs").iterdir():
            file.rename(tmp_path / split / file.name)
        (tmp_path / split / "imgs").rmdir()
    data = load(tmp_path)
    assert (len(data.test), data.left_out) == (20, {})


def test_more_classes_than_a_class_map_holds_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="expected 2 to 255 classes, got 300"):
        load(root, values={index: str(index) for index in range(300)})


CAMVID = (Path(__file__).parents[5] / "../shared/data/camvid.tar.xz").resolve()


@pytest.mark.skipif(not CAMVID.is_file(), reason=f"{CAMVID} is not there")
def test_camvid_rendered_in_its_colours_reads_back_equal(tmp_path: Path) -> None:
    """Twelve pairs: values by classes.txt, then painted in the colours of our table."""
    with tarfile.open(CAMVID) as archive:
        wanted = 25
        for member in archive:
            kind = Path(member.name).parent
            images = len(list((tmp_path / "camvid/train/images").glob("*")))
            if (
                member.name == "camvid/classes.txt"
                or (kind == Path("camvid/train/images") and images < 12)
                or (kind == Path("camvid/train/masks"))
            ):
                archive.extract(member, tmp_path, filter="data")
                wanted -= 1
            if not wanted:
                break
    root = tmp_path / "camvid"
    as_values = load(root, ignore_index=11)
    expected = all_of(as_values)
    rows = read_table("camvid-11", root).rows
    colours = np.array([row.colour for row in rows if row.value is not None], np.uint8)
    for file in (root / "train/masks").iterdir():
        Image.fromarray(colours[np.asarray(Image.open(file))]).save(file)
    painted = load(root, colours="camvid-11")
    assert painted.classes == (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    for name, mask in all_of(painted).items():
        values = np.where(expected[name] == 11, 255, expected[name])
        assert np.array_equal(mask, values)
