"""First weights: what fits, what is replaced, what is refused."""

import logging
import urllib.request
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import ResNet18_Weights

from training.errors import RecipeError
from training.models import build_model
from training.models.attention import Attention
from training.models.checkpoint import save_network
from training.models.weights import check_weights, load_weights, weights_fingerprint
from training.recipes.model import ModelChoice

CHECKPOINT = (Path(__file__).parents[3] / "../shared/data/weights/resnet56_cifar10.pth").resolve()


def same(first: nn.Module, second: nn.Module) -> bool:
    others = second.state_dict()
    return all(torch.equal(value, others[key]) for key, value in first.state_dict().items())


@pytest.fixture
def source() -> nn.Module:
    torch.manual_seed(1)
    return build_model("resnet20_cifar", 4)


def test_published_checkpoint_loads(caplog: pytest.LogCaptureFixture) -> None:
    if not CHECKPOINT.exists():
        pytest.skip(f"the checkpoint is absent: {CHECKPOINT}")
    caplog.set_level(logging.INFO)
    network = build_model("resnet56_cifar", 10)
    load_weights(network, str(CHECKPOINT), "resnet56_cifar")
    saved = torch.load(CHECKPOINT, weights_only=True)
    assert all(torch.equal(network.state_dict()[key], saved[key]) for key in saved)
    assert "new" not in caplog.text


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_prefixes_and_wrappers_do_not_matter(
    source: nn.Module, tmp_path: Path, prefix: str, wrapper: str | None
) -> None:
    state = {prefix + key: value for key, value in source.state_dict().items()}
    content = state if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    network = build_model("resnet20_cifar", 4)
    load_weights(network, str(tmp_path / "weights.pth"), "resnet20_cifar")
    assert same(network, source)


def test_safetensors_load(source: nn.Module, tmp_path: Path) -> None:
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    network = build_model("resnet20_cifar", 4)
    load_weights(network, str(tmp_path / "weights.safetensors"), "resnet20_cifar")
    assert same(network, source)


def test_run_folder_gives_its_trained_network(source: nn.Module, tmp_path: Path) -> None:
    save_network(source, tmp_path / "run" / "train" / "network.safetensors")
    network = build_model("resnet20_cifar", 4)
    load_weights(network, str(tmp_path / "run"), "resnet20_cifar")
    assert same(network, source)


def test_head_of_other_classes_is_replaced_and_the_log_says_so(
    source: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    network = build_model("resnet20_cifar", 7)
    load_weights(network, str(tmp_path / "weights.pth"), "resnet20_cifar")
    body = {key for key in source.state_dict() if not key.startswith("linear.")}
    assert all(torch.equal(network.state_dict()[key], source.state_dict()[key]) for key in body)
    assert "new, as the head is another: linear.bias, linear.weight" in caplog.text


def test_backbone_weights_go_into_the_encoder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backbone = build_model("resnet18", 10)
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    network = build_model("unet_resnet18", 3)
    load_weights(network, str(tmp_path / "weights.pth"), "unet_resnet18")
    encoder = network.get_submodule("encoder")
    assert torch.equal(encoder.layer4[1].conv2.weight, backbone.layer4[1].conv2.weight)  # type: ignore[index,union-attr]
    assert "left out, behind the encoder: fc.weight, fc.bias" in caplog.text


@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn"])
def test_weights_behind_the_place_where_an_encoder_is_cut_are_left_out(
    backbone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # The classifier is left out by name; in full it holds 100 million weights.
    vgg = nn.Module()
    vgg.features = getattr(torchvision_models.vgg, backbone)(num_classes=1).features
    torch.save(vgg.state_dict() | {"classifier.6.bias": torch.zeros(10)}, tmp_path / "weights.pth")
    network = build_model(f"pspnet_{backbone}", 3)
    load_weights(network, str(tmp_path / "weights.pth"), f"pspnet_{backbone}")
    encoder = network.get_submodule("encoder")
    assert torch.equal(encoder.features[0].weight, vgg.features[0].weight)  # type: ignore[index,union-attr]
    assert list(vgg.state_dict())[-1] in caplog.text
    assert "classifier.6.bias" in caplog.text


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [
        ("resnet18", "cbam"),
        ("resnet20_cifar", "se"),
        ("resnet20_cifar", "cbam"),
        ("vgg11_bn", "se"),
        # Files of half a gigabyte.
        pytest.param("vgg11_bn", "cbam", marks=pytest.mark.slow),
        pytest.param("resnet18", "se", marks=pytest.mark.slow),
    ],
)
def test_weights_without_attention_go_around_it(
    architecture: str, attention: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plain = build_model(architecture, 4)
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    network = build_model(architecture, 4, attention=attention)
    before = {name for name, _ in network.named_parameters()}
    load_weights(network, str(tmp_path / "weights.pth"), architecture)
    assert {name for name, _ in network.named_parameters()} == before
    for (name, layer), value in zip(_outside_attention(network), _layers(plain), strict=True):
        assert torch.equal(layer, value), name
    assert "new, attention, which the weights lack" in caplog.text
    caplog.clear()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    load_weights(
        build_model(architecture, 4, attention=attention),
        str(tmp_path / "weights.pth"),
        architecture,
    )
    assert "new" not in caplog.text


def _layers(network: nn.Module) -> list[torch.Tensor]:
    return list(network.state_dict().values())


def _outside_attention(network: nn.Module) -> list[tuple[str, torch.Tensor]]:
    inside = tuple(
        f"{name}." for name, block in network.named_modules() if isinstance(block, Attention)
    )
    state = network.state_dict()
    return [(key, value) for key, value in state.items() if not key.startswith(inside)]


def test_attention_of_another_kind_is_another_network(tmp_path: Path) -> None:
    other = build_model("resnet20_cifar", 4, attention="cbam")
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    network = build_model("resnet20_cifar", 4, attention="se")
    with pytest.raises(RecipeError, match="does not fit the network"):
        load_weights(network, str(tmp_path / "weights.pth"), "resnet20_cifar")


def test_any_other_difference_names_keys_and_shapes(source: nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    state["stem.weight"] = state.pop("bn1.weight")
    torch.save(state, tmp_path / "weights.pth")
    network = build_model("resnet20_cifar", 4)
    with pytest.raises(RecipeError) as error:
        load_weights(network, str(tmp_path / "weights.pth"), "resnet20_cifar")
    assert "conv1.weight is [16, 1, 3, 3] there and [16, 3, 3, 3] here" in str(error.value)
    assert "bn1.weight is missing there" in str(error.value)
    assert "stem.weight is unknown here" in str(error.value)
    torch.save(build_model("resnet18", 4).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(RecipeError, match=r"; and [0-9]+ more"):
        load_weights(network, str(tmp_path / "weights.pth"), "resnet20_cifar")


def test_file_that_could_run_code_or_is_broken_is_refused(tmp_path: Path) -> None:
    network = build_model("resnet20_cifar", 4)
    foreign = tmp_path / "network.pth"
    torch.save(network, foreign)
    with pytest.raises(RecipeError, match="cannot be read as tensors"):
        load_weights(network, str(foreign), "resnet20_cifar")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(RecipeError, match="cannot be read as tensors"):
            load_weights(network, str(tmp_path / name), "resnet20_cifar")
    torch.save({"epoch": 1}, foreign)
    with pytest.raises(RecipeError, match="holds no state_dict"):
        load_weights(network, str(foreign), "resnet20_cifar")


@pytest.mark.parametrize(
    ("architecture", "source", "said"),
    [
        ("resnet18", "nowhere.pth", "nowhere.pth: no such file"),
        ("resnet18", "ResNet34_Weights.DEFAULT", "torchvision's weights for resnet18: DEFAULT"),
        ("unet_vgg16_bn", "V1", "torchvision's weights for vgg16_bn"),
        ("resnet20_cifar", "DEFAULT", "torchvision has no weights for resnet20_cifar"),
        ("resnet18", "/", "is no run: it holds no train/network.safetensors"),
    ],
)
def test_weights_that_are_nowhere_are_refused_before_anything_runs(
    architecture: str, source: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        check_weights(source, architecture)


def test_weights_of_torchvision_are_known_by_name() -> None:
    for source in ("DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
        check_weights(source, "resnet18")
        check_weights(source, "fcn_resnet18")


def test_failing_download_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # The first download of a process fixes its proxies; others must not have these.
    monkeypatch.setattr(urllib.request, "_opener", None)
    # A port that nobody listens on: as without a network, only faster.
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    with pytest.raises(RecipeError) as error:
        load_weights(build_model("resnet18", 10), "DEFAULT", "resnet18")
    assert ResNet18_Weights.DEFAULT.url in str(error.value)
    assert "give its path" in str(error.value)


def test_changed_file_is_another_build(source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    choice = ModelChoice(name="resnet20_cifar", pretrained=str(path))
    before = weights_fingerprint(choice)
    torch.save(build_model("resnet20_cifar", 5).state_dict(), path)
    assert weights_fingerprint(choice) != before
    assert weights_fingerprint(ModelChoice(name="resnet20_cifar")) is None


def test_compressed_archive_is_refused_before_it_takes_memory(
    source: nn.Module, tmp_path: Path
) -> None:
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    load_weights(build_model("resnet20_cifar", 4), str(tmp_path / "plain.pth"), "resnet20_cifar")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for part in plain.infolist():
            small.writestr(part.filename, plain.read(part))
    with pytest.raises(RecipeError, match=r"small\.pth: is a compressed archive"):
        load_weights(source, str(tmp_path / "small.pth"), "resnet20_cifar")
