"""The two parts of a network that training may treat differently: backbone and head."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from training.models import head_layers


def backbone_modules(network: nn.Module) -> list[nn.Module]:
    """`network.encoder` and all modules in it; of a network without one, every module but its
    heads.

    A parameter belongs to the module that holds it directly.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    encoder = getattr(network, "encoder", None)
    if isinstance(encoder, nn.Module):
        inside = list(encoder.modules())
        # The encoder of a vision transformer begins after the first layer.
        if any(layers[0] is module for module in inside):
            return inside
    heads = head_layers(network)
    return [module for module in network.modules() if module not in heads]


def backbone_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of backbone_modules, each once."""
    owned = [p for m in backbone_modules(network) for p in m.parameters(recurse=False)]
    return list(dict.fromkeys(owned))


def freeze_backbone(network: nn.Module) -> None:
    """Takes the backbone's gradients away and lets its normalisation and dropout do as in
    evaluation, so that nothing in it changes."""
    for parameter in backbone_parameters(network):
        parameter.requires_grad_(False)
    for module in backbone_modules(network):
        if isinstance(module, _BatchNorm | _DropoutNd):
            module.eval()


def unfreeze_backbone(network: nn.Module) -> None:
    """Undoes freeze_backbone."""
    for parameter in backbone_parameters(network):
        parameter.requires_grad_(True)
    network.train()
