"""Networks of timm in each step of a build: a small one of every family, decoders on encoders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers.std_conv import ScaledStdConv2d
from torch import nn

from serving.base.errors import EngineUnavailable
from serving.base.evaluation import answer_distance
from tests.training.models.test_pairs import ENGINES, SCHEMES, answers, blotches
from training.compress.calibration import choose_calibration
from training.compress.channel_pruner import ChannelPruner
from training.compress.quantize import quantize
from training.data.samples import ArraySamples
from training.models import (
    build_model,
    count_macs,
    deployable,
    drop_auxiliary_heads,
    head_layers,
    unsupported_steps,
)
from training.models.checkpoint import load_network, save_network
from training.models.export.deployed import Deployed, input_specs, output_specs, run_deployed
from training.models.export.to_onnx import check_interface, export_onnx
from training.recipes.compress import Prune
from training.recipes.data import Normalization

CLASSES = 5
NORMALIZATION = Normalization()
FLOAT_TOLERANCE = 5e-4
# See test_pairs: gates, or narrow bottlenecks in a row, and random weights leave little of an
# answer in 8 bits, so that only a file that runs and gives numbers can be asked of these.
INT8_TOLERANCE = 0.6
GATED = (
    "dla", "efficientnetv2", "efficientvit", "ese_vovnet", "ghostnet", "hardcorenas", "hgnet",
    "hiera", "lcnet", "mobileone", "mobilenetv2", "mobilevit", "rexnet", "tf_efficientnet",
    "tinynet", "xcit",
)  # fmt: skip

_SWIN = {"img_size": 64, "window_size": 4, "depths": [2, 2], "embed_dim": 32, "num_heads": [2, 4]}
# One member of each family; the first ones always, the others where there is time.
ALWAYS: dict[str, dict[str, Any]] = {
    "test_convnext": {},
    "test_efficientnet": {},
    "test_vit": {"img_size": 64},
    "repvgg_a0": {},
    "regnetx_002": {},
    "swin_tiny_patch4_window7_224": _SWIN,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "cait_xxs24_224": {"img_size": 64, "depth": 3},
    "coat_lite_tiny": {"img_size": 64},
    "convit_tiny": {"img_size": 64, "depth": 3, "local_up_to_layer": 2},
    "convnextv2_atto": {"depths": [1, 1, 1, 1]},
    "davit_tiny": {
        "depths": [1, 1, 1, 1],
        "embed_dims": [32, 64, 96, 128],
        "num_heads": [2, 2, 3, 4],
    },
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 3},
    "densenet121": {"block_config": [2, 2, 2, 2]},
    "dla46x_c": {},
    "dpn48b": {},
    "edgenext_xx_small": {},
    "efficientformerv2_s0": {"img_size": 64},
    "efficientnetv2_rw_t": {},
    "efficientvit_b0": {},
    "efficientvit_m0": {"img_size": 64},
    "ese_vovnet19b_slim_dw": {},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 3},
    "fasternet_t0": {},
    "fastvit_t8": {},
    "ghostnet_050": {},
    "hardcorenas_a": {},
    "hgnetv2_b0": {},
    "hiera_tiny_224": {"img_size": 64, "stages": [1, 1, 2, 1]},
    "hrnet_w18_small": {},
    "inception_next_atto": {},
    "lcnet_035": {},
    "legacy_seresnet18": {},
    "legacy_xception": {},
    "levit_128s": {"img_size": 64},
    "maxvit_pico_rw_256": {"img_size": 64},
    "mixer_s32_224": {"img_size": 64},
    "mnasnet_small": {},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_035": {},
    "mobileone_s0": {},
    "mobilevit_xxs": {},
    "pit_ti_224": {"img_size": 64, "depth": [1, 1, 1]},
    "poolformerv2_s12": {},
    "pvt_v2_b0": {},
    "regnety_002": {},
    "repghostnet_050": {},
    "repvit_m0_9": {},
    "res2net50_14w_8s": {},
    "resnest14d": {},
    "resnetv2_18": {},
    "resnetv2_50x1_bit": {},
    "resnext26ts": {},
    "rexnet_100": {},
    "seresnet18": {},
    "shvit_s1": {},
    "skresnet18": {},
    "starnet_s050": {},
    "swiftformer_xs": {},
    "swinv2_tiny_window8_256": _SWIN,
    "test_byobnet": {},
    "test_mambaout": {},
    "test_nfnet": {},
    "test_resnet": {},
    "tf_efficientnet_lite0": {},
    "tiny_vit_5m_224": {},
    "tinynet_e": {},
    "tnt_s_patch16_224": {"img_size": 64, "depth": 2},
    "tresnet_m": {},
    "twins_svt_small": {"img_size": 64, "depths": [1, 1, 2, 1]},
    "vgg11_bn": {},
    "visformer_tiny": {"img_size": 64},
    "vitamin_small_224": {"img_size": 64, "depth": 2},
    "xception41": {},
    "xcit_nano_12_p8_224": {"img_size": 64, "depth": 2},
}


def families() -> list[Any]:
    slow = [pytest.param(*family, marks=pytest.mark.slow) for family in FAMILIES.items()]
    return [pytest.param(*family) for family in ALWAYS.items()] + slow


def pruned(network: nn.Module, size: tuple[int, int]) -> float:
    """Takes half of what can go; gives the share of the multiply-accumulates that stays."""
    before = count_macs(network, size)
    train = {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 1}}
    config = Prune.model_validate({"ratio": 0.5, "round_to": 8, "train": train})
    ChannelPruner(network, config, 0.5, size, lambda _: None).step()
    return count_macs(network, size) / before


def settle(network: nn.Module, images: np.ndarray[Any, Any]) -> torch.Tensor:
    """Gives batch norms the statistics of the images, as a training would; gives the images as the
    network sees them."""
    mean, std = np.array(NORMALIZATION.mean), np.array(NORMALIZATION.std)
    seen = torch.from_numpy((images / 255 - mean) / std).permute(0, 3, 1, 2).float()
    for module in network.eval().modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            module.train()
    with torch.no_grad():
        network(seen)
    network.eval()
    return seen


@pytest.mark.parametrize(("name", "options"), families())
def test_family_is_pruned_saved_merged_exported_and_quantised(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    side = options.get("img_size", 64)
    size = (side, side)
    torch.manual_seed(0)
    network = build_model(f"timm/{name}", CLASSES, **options).eval()
    refused = unsupported_steps(f"timm/{name}")
    if "prune" not in refused:
        assert pruned(network, size) < 0.97
    for head in head_layers(network):
        if not head.weight.any():  # which some begin with: their answers would all be equal
            nn.init.normal_(head.weight, std=0.02)
    images = blotches(16, size)
    seen = settle(network, images)

    # Saved, read again and merged it answers as before.
    file = tmp_path / "network.safetensors"
    with torch.no_grad():
        wanted = network(seen)
        assert wanted.std(dim=0).min() > 0
        for form in (network, deployable(network)):
            save_network(form, file)
            assert answer_distance(wanted.numpy(), load_network(file)(seen).numpy()) < 2e-3

    deployed = Deployed(deployable(network), "classification", NORMALIZATION)
    outputs = output_specs("classification", CLASSES, size)
    path = tmp_path / "model.onnx"
    export_onnx(deployed, input_specs(size), outputs, 20, path)
    check_interface(path, input_specs(size), outputs)
    expected = run_deployed(deployed, ("logits",), images)["logits"]
    samples = ArraySamples(images, np.zeros(len(images), np.int64))
    for engine in ENGINES:
        for batch in (3, 1):
            got = answers(engine, path, "fp32", images[:batch])
            assert answer_distance(expected[:batch], got) <= FLOAT_TOLERANCE, engine
        if "int8" in refused:
            continue
        int8 = tmp_path / "int8.onnx"
        quantize(path, int8, SCHEMES[engine], "minmax", choose_calibration(samples, 16, 0))
        try:
            got = answers(engine, int8, "int8", images)
        except EngineUnavailable as refused:
            if "would compute it wrongly" not in str(refused):
                raise
            continue
        assert np.isfinite(got).all(), engine
        if not name.startswith(GATED):
            assert answer_distance(expected, got) <= INT8_TOLERANCE, engine


def test_standardised_weights_are_fixed_before_the_export() -> None:
    torch.manual_seed(0)
    network = build_model("timm/test_nfnet", CLASSES).eval()
    images = torch.randn(2, 3, 64, 64)
    form = deployable(network)
    assert not any(isinstance(module, ScaledStdConv2d) for module in form.modules())
    with torch.no_grad():
        torch.testing.assert_close(form(images), network(images), rtol=1e-4, atol=1e-5)


def test_at_least_25_families_are_tried() -> None:
    modules = {timm.models.model_entrypoint(name).__module__ for name in (*ALWAYS, *FAMILIES)}
    assert len(modules) >= 25


@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [
        ("unet", "test_convnext"),
        pytest.param("fpn", "test_resnet", marks=pytest.mark.slow),
        pytest.param("fcn", "test_byobnet", marks=pytest.mark.slow),
    ],
)
def test_decoder_on_an_encoder_answers_for_any_size(
    decoder: str, encoder: str, tmp_path: Path
) -> None:
    name = f"{decoder}_timm/{encoder}"
    network = build_model(name, 3, auxiliary=True).eval()
    drop_auxiliary_heads(network)
    kept = pruned(network, (40, 56))
    assert kept < 0.97
    images = blotches(4, (40, 56))
    settle(network, images)
    file = tmp_path / "network.safetensors"
    save_network(network, file)
    deployed = Deployed(deployable(load_network(file)), "segmentation", NORMALIZATION)
    outputs = output_specs("segmentation", 3, (40, 56))
    path = tmp_path / "model.onnx"
    export_onnx(deployed, input_specs((40, 56)), outputs, 20, path)
    expected = run_deployed(deployed, ("mask", "confidence"), images)["mask"]
    for engine in ENGINES:
        assert answer_distance(expected, answers(engine, path, "fp32", images)) <= 1e-3
