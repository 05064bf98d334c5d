"""The features of every layer of a network of timm, as parts of one encoder: at which depth does something go?"""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ssl_inv.catalogue import RecipeError
from ssl_inv.nn.backbones import Backbone
from ssl_inv.run.encoders import LoadedModel
from ssl_inv.run.exports.parts import InParts


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

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Parts `(B, D)`."""
        inner: Any = self.network.model if isinstance(self.network, Backbone) else self.network
        prefix = int(getattr(inner, "num_prefix_tokens", 0) or 0)
        asked = {"return_prefix_tokens": True} if prefix else {}
        last, layers = inner.forward_intermediates(pixels, **asked)
        parts = {"all": inner.forward_head(last) if hasattr(inner, "forward_head") else inner(pixels)}
        for number, layer in enumerate(layers):
            name = f"layer {number:02d}"
            if isinstance(layer, Tensor):
                parts[name] = self._mean(layer)
            else:
                maps, tokens = layer
                parts[f"{name} patches"] = self._mean(maps)
                parts[f"{name} class"] = tokens[:, 0]
        return parts

    @staticmethod
    def _mean(layer: Tensor) -> Tensor:
        return layer.flatten(2).mean(dim=2) if layer.dim() == 4 else layer.mean(dim=1)


def in_layers(loaded: LoadedModel) -> LoadedModel:
    """The same encoder, whose features are those of every layer in place of the parts of its objective.

    Raises:
        RecipeError: if its network does not give its layers.
    """
    model = loaded.model
    network, others = _whole(model.trained()[0]), model.untrained_networks()
    made = None if others is None else LayerFeatures(_whole(others[0]))
    layers = replace(
        model,
        changed=(LayerFeatures(network), None),
        untrained=None if made is None else (lambda: made),
        run=None,
        parts={},
        description=f"{model.description}, by layer",
    )
    return replace(loaded, model=layers)


def _whole(network: nn.Module) -> nn.Module:
    """The network that an export has cut the features of into parts."""
    return network.network if isinstance(network, InParts) else network


def depth_of(part: str) -> tuple[str, int] | None:
    """The kind of token and the number of the layer of a part that `LayerFeatures` named; None of another part."""
    word, _, rest = part.partition(" ")
    number, _, token = rest.partition(" ")
    return (token or "all", int(number)) if word == "layer" and number.isdigit() else None
