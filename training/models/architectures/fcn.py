"""Decoder of a fully convolutional network (Long et al. 2014, arXiv 1411.4038, FCN-8s).

Departures from the paper: upsampling is bilinear and not learned, and a 3×3 convolution with batch
normalisation to a quarter of the channels stands where VGG had its 4,096-wide layers, since a
backbone here may be any.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.fcn import FCNHead


class FCNDecoder(nn.Module):
    """Scores of the last three feature maps, summed from the deepest to the finest of them.

    Takes a list of maps whose last three are [N, channels[-3], 4h, 4w], [N, channels[-2], 2h, 2w]
    and [N, channels[-1], h, w]; gives [N, num_classes, 4h, 4w].
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        *_, finest, middle, deepest = channels
        self.score_deepest = FCNHead(deepest, num_classes)
        self.score_middle = nn.Conv2d(middle, num_classes, 1)
        self.score_finest = nn.Conv2d(finest, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        *_, finest, middle, deepest = features
        scores: Tensor = self.score_deepest(deepest)
        scores = _doubled(scores) + self.score_middle(middle)
        answer: Tensor = _doubled(scores) + self.score_finest(finest)
        return answer

    def score_layers(self) -> list[nn.Module]:
        """The convolutions whose outputs are the classes."""
        return [self.score_deepest[-1], self.score_middle, self.score_finest]


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
