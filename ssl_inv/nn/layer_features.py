"""The features of every layer of a network of timm, as parts of one encoder."""

from typing import Any

from torch import Tensor, nn

from ssl_inv.catalogue import RecipeError
from ssl_inv.nn.backbones import Backbone


class LayerFeatures(nn.Module):
    """From normalised pixels to the pooled features of every layer, and those of the network as `all`.

    A layer is what the network's `forward_intermediates` returns: a block of a transformer, a stage of a convolutional
    network. Its part `layer 03` is the mean over positions; with prefix tokens there are `layer 03 patches`, the mean
    over patches, and `layer 03 class`, the first prefix token.

    Args:
        network: a model of timm.

    Raises:
        RecipeError: if the network has no `forward_intermediates`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        inner = network.model if isinstance(network, Backbone) else network
        if not hasattr(inner, "forward_intermediates"):
            kind = type(inner).__name__
            raise RecipeError(f"--layers needs a model of timm that gives its layers; {kind} has no such method")

    @property
    def model(self) -> Any:
        """The model of timm."""
        return self.network.model if isinstance(self.network, Backbone) else self.network

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Parts `(B, D)`."""
        last, layers = self._layers(pixels)
        model = self.model
        parts = {"all": model.forward_head(last) if hasattr(model, "forward_head") else model(pixels)}
        for number, layer in enumerate(layers):
            name = layer_name(number)
            if isinstance(layer, Tensor):
                parts[name] = self._mean(layer)
            else:
                maps, tokens = layer
                parts[f"{name} patches"] = self._mean(maps)
                parts[f"{name} class"] = tokens[:, 0]
        return parts

    def maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """The feature maps `(B, C, h, w)` of all layers that have one, by the part that is their mean."""
        found = {}
        for number, layer in enumerate(self._layers(pixels)[1]):
            name = layer_name(number) if isinstance(layer, Tensor) else f"{layer_name(number)} patches"
            one = layer if isinstance(layer, Tensor) else layer[0]
            if one.dim() == 4:
                found[name] = one
        return found

    def _layers(self, pixels: Tensor) -> tuple[Tensor, list[Any]]:
        prefix = int(getattr(self.model, "num_prefix_tokens", 0) or 0)
        asked = {"return_prefix_tokens": True} if prefix else {}
        last, layers = self.model.forward_intermediates(pixels, **asked)
        return last, layers

    @staticmethod
    def _mean(layer: Tensor) -> Tensor:
        return layer.flatten(2).mean(dim=2) if layer.dim() == 4 else layer.mean(dim=1)


def layer_name(number: int) -> str:
    """The part of the features of a layer."""
    return f"layer {number:02d}"


def depth_of(part: str) -> tuple[str, int] | None:
    """The kind of token and the number of the layer of a part that `LayerFeatures` named; None of another part."""
    word, _, rest = part.partition(" ")
    number, _, token = rest.partition(" ")
    return (token or "all", int(number)) if word == "layer" and number.isdigit() else None
