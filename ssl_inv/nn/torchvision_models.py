"""Classification networks of torchvision as encoders: without their last layer."""

import torch
from torch import nn
from torchvision import models

from ssl_inv.catalogue import RecipeError, suggest

_MEAN, _STD, _SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
"""How torchvision normalises images for its networks, and their side unless their weights say another."""


def torchvision_backbone(
    name: str, pretrained: bool, seed: int = 0
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...], int]:
    """A network that gives the input of its last linear layer.

    Args:
        name: of `torchvision.models.get_model`, such as `resnet18`.
        pretrained: whether to load torchvision's default weights. This may download them.
        seed: draws the weights otherwise.

    Returns:
        The network from normalised pixels `(B, 3, H, W)` to features `(B, D)`; the mean and the standard deviation that
        its pixels are normalised with; and the side of its images, in pixels.

    Raises:
        RecipeError: if torchvision has no such classifier, or its weights cannot be loaded.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise RecipeError(f"torchvision has no classifier called {name!r}; {suggest(name, known)}")
    mean, std, size = _MEAN, _STD, _SIZE
    weights = models.get_model_weights(name).DEFAULT if pretrained else None
    if weights is not None:
        transforms = weights.transforms()
        mean, std, size = tuple(transforms.mean), tuple(transforms.std), transforms.crop_size[0]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: nn.Module = models.get_model(name, weights=weights)
    except OSError as error:
        why = f"{error.__class__.__name__}; are you offline?"
        raise RecipeError(f"torchvision's weights of {name!r} cannot be loaded: {why}") from error
    layers = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise RecipeError(f"torchvision's {name!r} has no last linear layer, before which its features could be taken")
    network.set_submodule(layers[-1], nn.Identity())
    return network.eval(), mean, std, size
