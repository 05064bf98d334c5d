"""What an evaluation of layers adds to features: their maps, and one width for all of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.nn.layer_features import LayerFeatures, depth_of
from ssl_inv.nn.modes import frozen


def layer_maps(network: nn.Module, image: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """What gives the feature map of each layer; empty if the network is not `LayerFeatures`.

    Args:
        network: gives the features.
        image: normalised pixels `(1, C, H, W)`, to know which layers have maps.
    """
    if not isinstance(network, LayerFeatures):
        return {}

    def maps(pixels: Tensor) -> dict[str, Tensor]:
        with frozen(network), torch.no_grad():
            return network.maps(pixels)

    def of(name: str) -> Callable[[Tensor], Tensor]:
        return lambda pixels: maps(pixels)[name]

    return {name: of(name) for name in maps(image)}


def in_common_width(encoded: Encoded) -> tuple[Encoded, str]:
    """Layers as their principal components, as many as the narrowest layer has, and a sentence about it.

    A wider layer gives a probe more to work with, whatever it holds. So each layer is projected onto the eigenvectors
    of the covariance of its training features with the largest eigenvalues. The mean is not subtracted. A layer that is
    as narrow as the narrowest stays as it is: turned, it would give the same numbers. The part `all` stays too.

    Returns:
        The encoder, and which share of the variance the components hold; the sentence is empty where no part is of a
        layer.
    """
    widths = {part: encoded.train.part(part).shape[1] for part in encoded.parts if depth_of(part) is not None}
    if not widths:
        return encoded, ""
    width = min(widths.values())
    projections, shares = {}, {}
    for part, own in widths.items():
        if own > width:
            projections[part], shares[part] = _principal(encoded.train.part(part), width)
    if not projections:
        return encoded, f"all layers have {width} features"
    encode = encoded.encode

    def projected(pixels: Tensor) -> Mapping[str, Tensor]:
        assert encode is not None
        parts = encode(pixels)
        assert not isinstance(parts, Tensor)
        return _projected(dict(parts), projections)

    tables = [
        replace(table, features=_projected(table.features, projections))
        for table in (encoded.train, encoded.validation)
    ]
    held = ", ".join(f"{part} {100 * share:.1f} %" for part, share in shares.items())
    fact = (
        f"layers are compared at the width of the narrowest, {width} features: wider ones by their principal "
        f"components, fitted to training views, which hold of the variance: {held}"
    )
    return replace(encoded, train=tables[0], validation=tables[1], encode=None if encode is None else projected), fact


def _principal(rows: Tensor, width: int) -> tuple[Tensor, float]:
    """The directions of largest variance `(D, width)`, and the share of it that they hold."""
    centred = rows.double() - rows.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)[:, :width]
    # Eigenvectors have no sign of their own; a fixed one makes repeated runs equal.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    return vectors.float(), float(values[:width].sum() / values.sum().clamp_min(torch.finfo(values.dtype).tiny))


def _projected(parts: Mapping[str, Tensor], projections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value @ projections[name].to(value) if name in projections else value for name, value in parts.items()
    }
