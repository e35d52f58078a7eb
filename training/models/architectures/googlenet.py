"""GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842)."""

from torch import nn
from torchvision import models as torchvision_models


def googlenet(num_classes: int) -> nn.Module:
    """In training mode the answer is (logits, those of the second auxiliary head, of the first);
    6,624,904 parameters for 1,000 classes without these heads. Departure from the paper: batch
    normalisation, with 3×3 convolutions in place of the 5×5 ones."""
    network: nn.Module = torchvision_models.googlenet(
        weights=None, num_classes=num_classes, aux_logits=True, init_weights=True
    )
    return network
