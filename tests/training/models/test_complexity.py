"""Parameters and arithmetic: the counting rules, and the networks against their papers."""

import pytest
import timm
import torch
from torch import nn

from training.models import build_model, count_macs, count_parameters, drop_auxiliary_heads


def test_parameters_follow_the_rules() -> None:
    assert count_parameters(nn.Linear(7, 5)) == (7 + 1) * 5
    assert count_parameters(nn.Conv2d(4, 6, 3)) == (3 * 3 * 4 + 1) * 6
    assert count_parameters(nn.Conv2d(4, 6, 3, bias=False)) == 3 * 3 * 4 * 6
    assert count_parameters(nn.BatchNorm2d(6)) == 2 * 6


def test_macs_count_strides_groups_and_linear_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, groups=3),
        nn.Flatten(),
        nn.Linear(6 * 4 * 2, 5),
    )
    assert count_macs(model, (8, 4)) == 8 * 6 * 27 + 8 * 6 * 18 + 48 * 5


def test_macs_count_attention() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = image.mean(1, keepdim=True).flatten(2).transpose(1, 2).expand(-1, -1, 4)
            answer: torch.Tensor = self.attention(tokens, tokens, tokens)[0]
            return answer

    # 6 tokens of width 4: four projections, then the scores and the sums.
    assert count_macs(Attention(), (2, 3)) == 4 * 6 * 4 * 4 + 2 * 6 * 6 * 4


class Tokens(nn.Module):
    """A layer that is shown a learned token, as in CaiT."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 3))
        self.patches = nn.Conv2d(3, 3, 1)
        self.layer = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.token.expand(len(images), -1, -1)
        return self.layer(tokens) + self.patches(images).mean()


def test_macs_count_layers_that_are_shown_learned_tokens() -> None:
    network = Tokens()
    assert count_macs(network, (4, 4)) == 3 * 4 + 16 * 3 * 3
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_counting_macs_leaves_the_model_as_it_was() -> None:
    model = build_model("resnet20_cifar", num_classes=10).train()
    model.get_submodule("bn1").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (32, 32))
    assert model.training
    assert not model.get_submodule("bn1").training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # The one-column network of arXiv 1404.5997; that of 2012, split in two, has 60,965,224.
        ("alexnet", 61_100_840),
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("vgg16_bn", 138_365_992),
        ("googlenet", 6_624_904),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("squeezenet1_1", 1_235_496),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_small", 2_542_856),
        ("mobilenet_v3_large", 5_483_032),
        ("shufflenet_v2_x1_0", 2_278_604),
        ("xception", 22_855_952),
        ("efficientnet_b0", 5_288_548),
        ("vit_b_16", 86_567_656),
    ],
)
def test_networks_have_the_parameters_of_their_papers(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build_model(name, num_classes=1000)
    drop_auxiliary_heads(network)
    assert count_parameters(network) == parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20_cifar", 0.27),
        ("resnet32_cifar", 0.46),
        ("resnet44_cifar", 0.66),
        ("resnet56_cifar", 0.85),
        ("resnet110_cifar", 1.7),
    ],
)
def test_cifar_resnets_have_the_parameters_of_the_paper(name: str, millions: float) -> None:
    digits = 1 if millions > 1 else 2
    with torch.device("meta"):
        parameters = count_parameters(build_model(name, num_classes=10))
    assert round(parameters / 1e6, digits) == millions


def test_lenet_has_the_parameters_of_the_paper_and_two_more_colours() -> None:
    # Dense C3 instead of the paper's sparse one: 61,706 with one colour.
    assert count_parameters(build_model("lenet5", num_classes=10)) == 61_706 + 2 * 6 * 5 * 5


@pytest.mark.parametrize(
    ("name", "side", "gmacs"),
    [
        # FLOPs are twice as many.
        ("resnet18", 224, 1.8),
        ("resnet34", 224, 3.6),
        ("resnet50", 224, 4.1),
        ("vgg16", 224, 15.5),
        ("mobilenet_v2", 224, 0.30),
        ("efficientnet_b0", 224, 0.39),
        ("vit_b_16", 224, 17.6),
    ],
)
def test_networks_need_the_multiply_accumulates_of_their_papers(
    name: str, side: int, gmacs: float
) -> None:
    with torch.device("meta"):
        network = build_model(name, num_classes=1000)
    assert count_macs(network, (side, side)) / 1e9 == pytest.approx(gmacs, rel=0.02)


def test_attention_of_timm_is_counted() -> None:
    with torch.device("meta"):
        network = timm.create_model("deit_tiny_patch16_224")
    tokens, width, layers = 197, 192, 12
    layer = tokens * width * 12 * width + 2 * tokens**2 * width
    patches, head = (tokens - 1) * 16 * 16 * 3 * width, width * 1000
    assert count_macs(network, (224, 224)) == layers * layer + patches + head
