"""Networks of timm: their settings, weights and encoders, and what is refused of them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from training.errors import BuildError, RecipeError
from training.models import (
    build_model,
    head_layers,
)
from training.models.checkpoint import load_network
from training.models.networks import check_network
from training.models.weights import check_weights, load_weights
from training.recipes import parse_recipe

CLASSES = 5


def test_rounding_that_ends_a_process_is_refused_when_the_recipe_is_read() -> None:
    own = document(name="timm/swinv2_tiny_window8_256") | {"quantize": {}}
    with pytest.raises(RecipeError, match=r"does not support int8: OpenVINO's INT8 form"):
        check_network(parse_recipe(own | {"export": {"variants": ["fp32", "int8-u8"]}}))


def document(**model: Any) -> dict[str, Any]:
    return {
        "name": "tried",
        "task": "classification",
        "data": {"source": "digits"},
        "model": model,
        "train": {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 0.1}},
    }


def test_settings_come_from_the_networks_own_configuration() -> None:
    recipe = parse_recipe(document(name="timm/tf_efficientnet_lite0"))
    assert recipe.transform.resize == 256
    assert recipe.transform.crop == (224, 224)
    assert recipe.transform.filter == "bicubic"
    assert recipe.normalization.mean == recipe.normalization.std == (0.5, 0.5, 0.5)


def test_settings_of_the_recipe_stand() -> None:
    own = document(name="timm/test_vit") | {
        "transform": {"resize": [64, 64]},
        "normalization": {"mean": [0, 0, 0]},
    }
    recipe = parse_recipe(own)
    assert recipe.transform.size == (64, 64)
    assert recipe.transform.filter == "bicubic"
    assert recipe.normalization.mean == (0, 0, 0)
    # It has a learned value for each place, so that it is built for that size.
    assert recipe.model.options["img_size"] == [64, 64]
    check_network(recipe)


def test_the_tag_of_weights_decides_the_settings() -> None:
    recipe = parse_recipe(document(name="timm/resnet18.tv_in1k"))
    assert recipe.transform.filter == "bilinear"
    other = parse_recipe(document(name="timm/resnet18.a1_in1k"))
    assert other.transform.filter == "bicubic"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "timm/resnet18x"}, "timm has no network 'resnet18x'; did you mean timm/resnet18"),
        ({"name": "timm/resnet18.nope"}, "timm has no weights 'nope' of resnet18; it has: a1_in1k"),
        ({"name": "timm/resnet18", "factory": "a:b"}, "expected one of name, factory"),
        ({}, "expected one of name, factory"),
        (
            {"factory": "a:b", "encoder": "timm/resnet18"},
            "encoder: belongs to name, got factory",
        ),
        (
            {"name": "resnet18", "output": "x"},
            "output: belongs to factory or onnx",
        ),
    ],
)
def test_wrong_choices_are_refused(model: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(document(**model) | {"transform": {"resize": [32, 32]}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_path": "/etc/passwd"}, "checkpoint_path cannot be set here"),
        ({"pretrained": True}, "pretrained cannot be set here"),
        ({"wdith": 3}, "timm cannot make test_resnet with {'wdith': 3}: TypeError"),
    ],
)
def test_options_that_timm_cannot_take_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        check_network(parse_recipe(document(name="timm/test_resnet", options=options)))


def test_a_size_that_a_network_cannot_take_is_refused() -> None:
    own = document(name="timm/test_vit", options={"img_size": 64}) | {
        "transform": {"resize": [40, 40]}
    }
    with pytest.raises(RecipeError, match="timm/test_vit does not take images of 40x40"):
        check_network(parse_recipe(own))


def weights_of(name: str, classes: int, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network: nn.Module = timm.create_model(name, num_classes=classes, **options)
    return dict(network.state_dict())


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder as save_pretrained of timm leaves it."""
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(weights_of("test_resnet", 7), folder / "model.safetensors")
    config = {
        "architecture": "test_resnet",
        "num_classes": 7,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "crop_pct": 1.0, "input_size": [3, 96, 96]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_hub_folder_gives_weights_and_settings(hub: Path) -> None:
    recipe = parse_recipe(document(name="timm/test_resnet", pretrained=str(hub)))
    assert recipe.normalization.mean == (0.1, 0.2, 0.3)
    assert recipe.transform.resize == 96
    check_network(recipe)
    network = build_model("timm/test_resnet", 7)
    load_weights(network, str(hub), "timm/test_resnet")
    wanted = weights_of("test_resnet", 7)
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def test_hub_folder_of_another_network_is_refused(hub: Path) -> None:
    with pytest.raises(RecipeError, match="holds test_resnet, the recipe names timm/resnet18"):
        parse_recipe(document(name="timm/resnet18", pretrained=str(hub)))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"architecture": 3}', "[" * 100_000])
def test_nonsense_in_a_hub_folder_is_named(hub: Path, text: str) -> None:
    (hub / "config.json").write_text(text)
    with pytest.raises(RecipeError, match=r"pretrained: .*hub"):
        parse_recipe(document(name="timm/test_resnet", pretrained=str(hub)))


def test_another_number_of_classes_gives_a_new_head(
    hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    network = build_model("timm/test_resnet", 3)
    load_weights(network, str(hub / "model.safetensors"), "timm/test_resnet")
    assert "new, as the head is another: fc.bias, fc.weight" in caplog.text
    wanted = weights_of("test_resnet", 7)
    assert torch.equal(network.state_dict()["conv1.0.weight"], wanted["conv1.0.weight"])


def test_positions_are_interpolated_to_another_size(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(weights_of("test_vit", CLASSES), file)
    network = build_model("timm/test_vit", CLASSES, img_size=64)
    load_weights(network, str(file), "timm/test_vit")
    assert network.state_dict()["pos_embed"].shape[1] == 17


def test_weights_that_nobody_has_are_refused_without_a_download() -> None:
    check_weights("DEFAULT", "timm/resnet18")
    check_weights("a1_in1k", "unet_timm/resnet18")
    with pytest.raises(RecipeError, match=r"timm has no weights 'b9' of resnet18; it has: a1_in1k"):
        check_weights("b9", "timm/resnet18")
    with pytest.raises(RecipeError, match=r"no such file"):
        check_weights("missing.pth", "timm/resnet18")


def test_encoder_takes_the_weights_of_the_classifier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for encoder in ("test_resnet", "test_convnext", "test_efficientnet"):
        weights = weights_of(encoder, 9)
        torch.save(weights, tmp_path / "weights.pth")
        network = build_model(f"unet_timm/{encoder}", 3)
        load_weights(network, str(tmp_path / "weights.pth"), f"unet_timm/{encoder}")
        own = [value.sum().item() for value in network.encoder.state_dict().values()]  # type: ignore[union-attr]
        theirs = {value.sum().item() for value in weights.values()}
        assert all(value in theirs for value in own), encoder
    assert "left out, behind the encoder: fc.weight, fc.bias" in caplog.text


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "unet", "encoder": "timm/test_vit"}, "gives no features that unet can read"),
        ({"name": "deeplabv3plus", "encoder": "timm/densenet121"}, "output_stride"),
        ({"name": "unet", "encoder": "timm/resnet181"}, "did you mean timm/resnet18"),
        ({"name": "vnet", "encoder": "timm/resnet18"}, "unknown model 'vnet_timm/resnet18'"),
    ],
)
def test_encoders_that_give_no_features_are_refused(model: dict[str, Any], said: str) -> None:
    asked = document(**model) | {"task": "segmentation", "data": {"source": "connectors"}}
    with pytest.raises(RecipeError, match=said):
        check_network(parse_recipe(asked))


def test_heads_are_those_that_timm_names() -> None:
    network = build_model("timm/test_vit", CLASSES)
    assert [layer.out_features for layer in head_layers(network)] == [CLASSES]  # type: ignore[union-attr]


def test_file_that_names_a_factory_runs_no_code(tmp_path: Path) -> None:
    file = tmp_path / "network.safetensors"
    blueprint = json.dumps(["os:getcwd", 3, {}])
    save_file({"a": torch.zeros(1)}, file, {"convserve": blueprint, "convserve_numbers": "{}"})
    with pytest.raises(BuildError, match="does not name the factory os:getcwd"):
        load_network(file)
