"""Networks of one channel, made of those that take RGB.

The weights of a grey network's first convolution are the sums of those of the three colours: it
answers to a grey image as the network of RGB does to three equal channels of it.
"""

from torch import Tensor, nn

# Where a network keeps the channels of its images, also in its copies; 3 where it says nothing.
_CHANNELS = "_convserve_channels"


def take_grey(network: nn.Module) -> None:
    """Makes a network of RGB one of grey images, in place. ValueError where it has no convolution,
    or several, that takes three channels."""
    layers = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1
    ]
    if len(layers) != 1:
        raise ValueError(
            "cannot take grey images: expected one convolution of three channels, which takes the "
            f"image, found {len(layers)}"
        )
    layers[0].weight = nn.Parameter(_summed(layers[0].weight.detach()))
    layers[0].in_channels = 1
    mark_channels(network, 1)


def mark_channels(network: nn.Module, channels: int) -> None:
    """Notes the channels of the images that a network takes, for `input_channels`."""
    network.__dict__[_CHANNELS] = channels


def input_channels(network: nn.Module) -> int:
    """The channels of the images that a network of `build_model` takes."""
    channels: int = network.__dict__.get(_CHANNELS, 3)
    return channels


def sum_colours(grey: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Makes weights of RGB in `state` fit a grey network, or its encoder; gives their names."""
    summed = [
        key
        for name, layer in grey.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.in_channels == layer.groups == 1
        if (key := f"{name}.weight") in state and state[key].shape[1:2] == (3,)
    ]
    for key in summed:
        state[key] = _summed(state[key])
    return summed


def _summed(weight: Tensor) -> Tensor:
    return weight.sum(dim=1, keepdim=True)
