"""LeNet-5 (LeCun et al. 1998, doi 10.1109/5.726791, figure 2).

Departures from the paper: each map of C3 sees all maps of S2; S2 and S4 average without weights of
their own; tanh is not scaled; the last layer is linear. With one channel (`transform.channels: 1`),
as the paper has it, there are 61,706 parameters for 10 classes; the paper's sparse C3 has 60,000.
"""

from torch import Tensor, nn
from torch.nn import functional


class LeNet5(nn.Module):
    """float32 [N, 3, H, W] to logits [N, num_classes]; from 32×32 on, the paper's size. Where C5
    leaves more than one place of a larger image, they are averaged."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 6, 5)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.c1(image).tanh(), 2)
        x = functional.avg_pool2d(self.c3(x).tanh(), 2)
        x = functional.adaptive_avg_pool2d(self.c5(x).tanh(), 1).flatten(1)
        logits: Tensor = self.output(self.f6(x).tanh())
        return logits
