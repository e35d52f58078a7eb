"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360)."""

from torch import nn
from torchvision import models as torchvision_models


def squeezenet1_1(num_classes: int) -> nn.Module:
    """Departure from the paper: no ReLU behind the last convolution. It makes every negative logit
    zero, which keeps an answer from learning and cannot be an embedding."""
    network = torchvision_models.squeezenet1_1(weights=None, num_classes=num_classes)
    network.classifier[2] = nn.Identity()
    built: nn.Module = network
    return built
