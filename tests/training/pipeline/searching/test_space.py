"""The points of a search, their names and their recipes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.conftest import shapes_document
from training.errors import RecipeError
from training.evaluation.searched import Point
from training.pipeline.searching.space import Space
from training.recipes import Recipe, parse_recipe
from training.recipes.compress import Search

MakeRecipe = Callable[..., Recipe]


def test_a_point_comes_back_from_the_values_of_its_trial(digits_recipe: MakeRecipe) -> None:
    space = Space(digits_recipe(), Search(sizes=(24,), engine="onnxruntime"))
    point = Point(
        network="resnet20_cifar",
        size=(24, 24),
        ratio=0.35,
        tilt=-0.5,
        variant="int8-u8",
        float_share=0.1,
    )
    assert space.point(space.values(point)) == point
    for name, value in space.values(point).items():
        assert space.distributions[name]._contains(
            space.distributions[name].to_internal_repr(value)
        )


def test_settings_that_change_nothing_make_no_other_point(digits_recipe: MakeRecipe) -> None:
    space = Space(digits_recipe(), Search(engine="onnxruntime"))
    values = {"network": "resnet20_cifar", "size": "16x16", "ratio": 0.0, "tilt": 0.5,
              "variant": "fp32", "float_share": 0.2}  # fmt: skip
    assert space.point(values) == space.own


def test_recipe_of_a_point_prunes_and_quantises_as_it_says(digits_recipe: MakeRecipe) -> None:
    recipe = digits_recipe({"prune.ratio": None, "prune.macs": 0.5, "search": {}})
    space = Space(recipe, Search(engine="onnxruntime"))
    point = Point(
        network="resnet20_cifar", size=(16, 16), ratio=0.4, tilt=0.5, variant="int8-u8",
        float_share=0.2,
    )  # fmt: skip
    found = space.recipe_of(point)
    assert found.prune is not None
    assert found.quantize is not None
    assert (found.prune.ratio, found.prune.tilt, found.prune.macs) == (0.4, 0.5, None)
    assert found.quantize.mixed_precision.min_float == 0.2
    assert found.search is None
    own = space.recipe_of(space.own)
    assert (own.prune, own.quantize, own.export.variants) == (None, None, ("fp32",))


def test_no_tilt_where_weights_decide_which_layers_lose_channels(digits_recipe: MakeRecipe) -> None:
    recipe = digits_recipe({"prune.scope": "global"})
    assert Space(recipe, Search(engine="onnxruntime")).tilts == (0.0,)
    with pytest.raises(RecipeError, match="tilt: expected 0 with scope global"):
        digits_recipe({"prune.scope": "global", "prune.tilt": 0.5})


def test_no_more_layers_in_fp32_than_the_recipe_allows(digits_recipe: MakeRecipe) -> None:
    recipe = digits_recipe({"quantize.mixed_precision": {"max_float": 0.15}})
    assert Space(recipe, Search(engine="onnxruntime")).float_shares == (0.0, 0.1)


def test_networks_of_several_widths_are_told_apart(shapes_root: Path) -> None:
    wide = {"name": "unet_slim", "options": {"width": 0.25}}
    document = {**shapes_document(shapes_root), "search": {"max_ratio": 0, "networks": [wide]}}
    recipe = parse_recipe(document)
    assert recipe.search is not None
    space = Space(recipe, recipe.search)
    own, other = space.networks
    assert (own, other) == ("unet_slim width=0.125", "unet_slim width=0.25")
    point = space.own.model_copy(update={"network": other})
    assert space.recipe_of(point).model.options == {"width": 0.25}
    assert space.recipe_of(space.own).model.options == {"width": 0.125}
    assert re.fullmatch(r"unet_slim_width=0\.25-[0-9a-f]{8}-32x32", point.trained)
    assert str(point) == "unet_slim width=0.25 at 32x32, 0 % pruned, fp32"


def test_networks_that_differ_by_more_than_their_name_tells_are_refused(
    digits_recipe: MakeRecipe,
) -> None:
    choice = {"name": "resnet32_cifar", "init": "kaiming"}
    recipe = digits_recipe({"search": {"networks": ["resnet32_cifar", choice]}})
    assert recipe.search is not None
    with pytest.raises(RecipeError, match=r"search\.networks: resnet32_cifar is there twice"):
        Space(recipe, recipe.search)


def test_files_are_no_networks_to_train(digits_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"networks.*by name or factory, got the file net\.onnx"):
        digits_recipe({"search": {"networks": [{"onnx": "net.onnx"}]}})


def test_each_network_is_trained_in_a_folder_of_its_own() -> None:
    names = (
        "resnet20",
        "timm/resnet20",
        "timm_resnet20",
        "net a=../../b",
        "net a=.._.._b",
        "n" * 999,
    )
    folders = [
        Point(network=name, size=(32, 32), ratio=0.0, variant="fp32").trained for name in names
    ]
    assert folders[0] == "resnet20-32x32"
    assert len(set(folders)) == len(names)
    assert all("/" not in folder and len(folder) < 120 for folder in folders)


@pytest.mark.parametrize(
    ("augment", "sizes", "message"),
    [
        ({"quarter_turns": True}, [[12, 20]], r"at 12x20: augment\.quarter_turns: "),
        (
            {"padding_crop": {"pixels": 12, "mode": "reflect"}},
            [12],
            r"at 12x12: augment\.padding_crop\.pixels: ",
        ),
    ],
)
def test_sizes_that_the_recipe_cannot_change_are_refused(
    digits_recipe: MakeRecipe, augment: dict[str, object], sizes: list[object], message: str
) -> None:
    recipe = digits_recipe({"augment": augment, "search": {"sizes": sizes}})
    with pytest.raises(RecipeError, match=message):
        Space(recipe, recipe.search or Search())


def test_networks_of_one_name_with_other_options_are_others(digits_recipe: MakeRecipe) -> None:
    projected = {"name": "resnet20_cifar", "options": {"shortcut": "projection"}}
    networks = [{"name": "resnet20_cifar"}, projected]
    recipe = digits_recipe({"model": projected, "search": {"networks": networks}})
    space = Space(recipe, recipe.search or Search())
    assert list(space.networks) == ["resnet20_cifar shortcut=projection", "resnet20_cifar"]
    assert space.own.network == "resnet20_cifar shortcut=projection"
