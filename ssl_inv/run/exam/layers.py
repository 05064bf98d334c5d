"""The features of every layer of a network of timm, as parts of one encoder: at which depth does something go?"""

from dataclasses import replace

from torch import nn

from ssl_inv.nn.layer_features import LayerFeatures
from ssl_inv.run.encoders import LoadedModel
from ssl_inv.run.exports.parts import InParts


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
