"""A recipe is refused with the path, the value and the way out."""

from pathlib import Path

import pytest

from tests.training.conftest import digits_document
from training.errors import RecipeError
from training.recipes import SegmentationRecipe, load_recipe, parse_recipe

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
DIGITS = RECIPES / "digits-resnet20.yaml"
CONNECTORS = RECIPES / "connectors-unet.yaml"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).name


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epoch=3", "train.epoch: unknown key; did you mean 'epochs'?"),
        ("prune.raito=0.5", "prune.raito: unknown key; did you mean 'ratio'?"),
        ("nmae=x", "nmae: unknown key; did you mean 'name'?"),
        ("train.optimizer.momentun=0", "momentun: unknown key; did you mean 'momentum'?"),
        ("data.xyz=1", "data.xyz: unknown key; valid here: source, split_seed"),
        ("transform.filtr=area", "transform.filtr: unknown key; did you mean 'filter'?"),
        ("train.epochs=zero", "train.epochs: input should be a valid integer"),
        ("train.epochs=0", "train.epochs: input should be greater than or equal to 1, got 0"),
        ("train.optimizer.lr=.inf", "train.optimizer.lr: input should be a finite number, got inf"),
        ("normalization.mean=[0, .nan, 0]", "mean.1: input should be a finite number, got nan"),
        ("train.optimizer.name=smd", "rmsprop, adadelta; got 'smd'; did you mean 'sgd'?"),
        ("task=clasification", "task: expected one of classification, segmentation"),
        ("export.variants=[int8-s8]", "variants must hold fp32"),
        ("export.variants=[fp32, int9]", "export.variants.1: input should be 'fp32'"),
        ("quantize=null", "export.variants holds int8-s8, int8-u8, so quantize must be given"),
        ("transform.resize=32", "a crop must follow it"),
        ("train.loss.name=dice", "train.loss: dice compares regions; classification has none"),
        (
            "augment.padding_crop={pixels: 32, mode: reflect}",
            "augment.padding_crop.pixels: an image mirrors less than its shorter side, 32 pixels",
        ),
        (
            "train.schedule={name: step, step_size: 99}",
            "train: schedule.step_size: 99 is not before the end",
        ),
        ("name=a/b", "name: string should match pattern"),
        (
            "export.tensorrt={variants: [fp32], usual_batch: 64}",
            "publish.max_batch_size (32), got 64",
        ),
        ("transform.channels=2", "transform.channels: input should be 1 or 3, got 2"),
        ("normalization={mean: [0.5], std: [0.5]}", "normalization: transform.channels is 3, so"),
        ("normalization.mean=[0.5]", "normalization: expected mean and std of 3 values each, or"),
        ("normalization={mean: [0.5], std: [0]}", "normalization.std.0: input should be greater"),
        ("model.options={channels: 1}", "model.options: the channels of images are not"),
        ("train.optimizer={}", "train.optimizer.name: missing; expected one of sgd, adamw"),
    ],
)
def test_wrong_value_is_refused_with_its_path(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(DIGITS, [override])
    assert expected in str(error.value)
    assert str(DIGITS) in str(error.value)


def test_grey_has_normalization_of_one_value() -> None:
    grey = load_recipe(DIGITS, ["transform.channels=1", "normalization={}"])
    assert (grey.normalization.mean, grey.normalization.std) == ((0.449,), (0.226,))
    own = load_recipe(DIGITS, ["transform.channels=1", "normalization={mean: [0.5]}"])
    assert (own.normalization.mean, own.normalization.std) == ((0.5,), (0.226,))
    colours = load_recipe(DIGITS)
    assert colours.transform.channels == len(colours.normalization.mean) == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("normalization.mean=[0, 0, 0]", "expected mean and std of 3 values each, or for grey"),
        ("normalization={mean: [0, 0, 0], std: [1, 1, 1]}", "transform.channels is 1, so mean and"),
        ("augment.hue=0.1", "augment.hue: changes colours, and with transform.channels: 1"),
        ("augment.saturation=0.1", "augment.saturation: changes colours, and"),
    ],
)
def test_colours_are_refused_in_a_recipe_of_one_channel(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(DIGITS, ["transform.channels=1", "normalization={}", override])
    assert expected in str(error.value)


def test_inherited_mistake_is_told_once() -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(DIGITS, ["train.epoch=3"])
    assert str(error.value).count("unknown key") == 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "expected KEY.KEY=VALUE"),
        ("=3", "expected KEY.KEY=VALUE"),
        ("train..epochs=3", "expected KEY.KEY=VALUE"),
        ("seed.a=3", "seed is 1, it has no keys"),
        ("train.epochs=[1", "not valid YAML"),
    ],
)
def test_malformed_override_is_refused(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match="--set") as error:
        load_recipe(DIGITS, [override])
    assert expected in str(error.value)


def test_override_replaces_a_value() -> None:
    recipe = load_recipe(DIGITS, ["train.epochs=2", "transform.resize=[16, 24]"])
    assert recipe.train.epochs == 2
    assert recipe.transform.size == (16, 24)


def test_fine_tuning_inherits_what_it_leaves_out() -> None:
    recipe = load_recipe(DIGITS, ["train.batch_size=17", "prune.train.optimizer.lr=0.5"])
    assert recipe.prune is not None
    assert recipe.prune.train.batch_size == 17
    assert recipe.prune.train.optimizer.lr == 0.5
    assert recipe.prune.train.optimizer.weight_decay == recipe.train.optimizer.weight_decay


def test_other_optimizer_inherits_nothing() -> None:
    recipe = load_recipe(DIGITS, ["prune.train.optimizer={name: adamw, lr: 0.001}"])
    assert recipe.prune is not None
    assert recipe.prune.train.optimizer.name == "adamw"
    assert recipe.prune.train.optimizer.weight_decay == 0.01


def test_segmentation_refuses_a_crop_with_the_reason() -> None:
    with pytest.raises(RecipeError, match="a segmentation answers for the whole image"):
        load_recipe(CONNECTORS, ["transform.crop=[64, 64]"])


def test_segmentation_takes_its_own_sources() -> None:
    assert isinstance(load_recipe(CONNECTORS), SegmentationRecipe)
    with pytest.raises(RecipeError, match="expected one of connectors, mask_folder"):
        load_recipe(CONNECTORS, ["data.source=digits"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [", "not valid YAML"), ("- a", "expected keys and values"), ("", "got None")],
)
def test_broken_file_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)


def test_missing_file_is_named() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: no such file"):
        load_recipe(Path("nowhere.yaml"))


def test_a_plan_is_not_measured_with_more_images_than_it_takes() -> None:
    overrides = ["export.tensorrt={variants: [fp32]}", "publish.max_batch_size=2"]
    with pytest.raises(RecipeError, match=r"verify\.batch_sizes: .* \(2\), beyond which .* got 32"):
        load_recipe(DIGITS, overrides)
    assert load_recipe(DIGITS, [*overrides, "verify.batch_sizes=[1, 2]"])


def test_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_text(DIGITS.read_text(), encoding="utf-8-sig")
    assert load_recipe(tmp_path / "bom.yaml") == load_recipe(DIGITS)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("latin-1", "line 2: byte 0xfc is not UTF-8"), ("utf-16", "line 1: UTF-16, expected")],
)
def test_recipe_in_another_encoding_is_named_with_its_line(
    tmp_path: Path, encoding: str, said: str
) -> None:
    text = "# eins\n# grün\n" + DIGITS.read_text()
    (tmp_path / "old.yaml").write_text(text, encoding=encoding)
    with pytest.raises(RecipeError, match=rf"old\.yaml: {said}"):
        load_recipe(tmp_path / "old.yaml")


@pytest.mark.parametrize(
    "changes", [{"k" * 5000: 1}, {"a\nb": 1}, {"model": {"name": "a", "k" * 5000: 1}}]
)
def test_keys_of_a_document_are_cut_short_in_messages(changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="unknown key") as caught:
        parse_recipe({**digits_document(), **changes})
    assert len(str(caught.value)) < 2000
    assert "\n" not in str(caught.value)
